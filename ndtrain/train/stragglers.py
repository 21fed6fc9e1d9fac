"""Finds ranks that compute more slowly than the others.

    watch = StragglerWatch()
    for warning in watch.add(compute_ms):       # by rank, once a step
        ...

Compared is the time of a step without waiting for communication: a slow rank makes the others wait,
so the whole step tells nothing about who is slow.
"""

from collections.abc import Sequence
from statistics import median

SLOW = 0.75  # median / own; NVRx uses the same threshold for its relative score
STEPS = 10  # in a row, before anything is said


class StragglerWatch:
    def __init__(self) -> None:
        self._in_a_row: dict[int, int] = {}

    def add(self, compute_ms: Sequence[float]) -> list[str]:
        """Warnings about ranks whose score has been below SLOW for STEPS steps, or a multiple."""
        typical = median(compute_ms)
        warnings = []
        for rank, own in enumerate(compute_ms):
            is_slow = typical < SLOW * own
            count = self._in_a_row[rank] = self._in_a_row.get(rank, 0) + 1 if is_slow else 0
            if count and count % STEPS == 0:
                warnings.append(
                    f"warning: rank {rank} is slow: {own:.0f} ms of compute in a step, the median"
                    f" is {typical:.0f} ms; {count} steps in a row"
                )
        return warnings

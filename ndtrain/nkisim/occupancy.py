"""How much of SBUF and PSUM a kernel needs at once, from the lifetimes in its stream.

A tensor is live from its first to its last instruction. The bytes of the live tensors are a lower
bound for every allocator, so a kernel that exceeds the capacity here cannot be placed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ndtrain.nkisim.errors import CapacityError
from ndtrain.nkisim.target import MIN_ALIGN_BYTES, NUM_PARTITIONS, PSUM_BYTES, Target
from ndtrain.nkisim.trace import Stream, TensorInfo


@dataclass(frozen=True)
class Occupancy:
    """Live tensors over time.

    steps: (instruction index, live bytes per partition, averaged over the 128 partitions).
    """

    space: str
    steps: tuple[tuple[int, int], ...]
    tensors: tuple[TensorInfo, ...]

    @property
    def peak(self) -> int:
        return max((b for _, b in self.steps), default=0)

    @property
    def peak_at(self) -> int:
        return max(self.steps, key=lambda s: s[1], default=(0, 0))[0]

    def live_at(self, index: int) -> list[TensorInfo]:
        """Live at instruction `index`, largest first."""
        live = [t for t in self.tensors if t.first_use <= index <= t.last_use]
        return sorted(live, key=lambda t: -t.row_bytes * t.partitions)


def measure(stream: Stream, space: str, granule: int = 1) -> Occupancy:
    """The occupancy of "sbuf" or "psum" over the instructions of `stream`.

    granule: tensors without an address take a multiple of so many bytes per partition.
    """
    used = tuple(t for t in stream.tensors if t.space == space and t.first_use >= 0)
    free = [t for t in used if t.address is None]
    events: dict[int, int] = {}
    for t in free:
        weight = -(-t.row_bytes // granule) * granule * t.partitions
        events[t.first_use] = events.get(t.first_use, 0) + weight
        events[t.last_use + 1] = events.get(t.last_use + 1, 0) - weight
    placed = _placed_bytes([t for t in used if t.address is not None])
    for index, change in placed.items():
        events[index] = events.get(index, 0) + change
    steps, total = [], 0
    for index in sorted(events):
        total += events[index]
        steps.append((index, -(-total // NUM_PARTITIONS)))
    return Occupancy(space, tuple(steps), used)


def _placed_bytes(tensors: list[TensorInfo]) -> dict[int, int]:
    """Changes of the bytes that tensors at explicit addresses cover; overlaps count once.

    Byte ranges are taken over all 128 partitions.
    """
    bounds: dict[int, list[tuple[int, TensorInfo]]] = {}
    reach = 0
    for t in tensors:
        bounds.setdefault(t.first_use, []).append((1, t))
        bounds.setdefault(t.last_use + 1, []).append((-1, t))
        reach = max(reach, _span(t).stop)
    covered = np.zeros(reach, np.int32)
    changes = {}
    for index in sorted(bounds):
        change = 0
        for step, t in bounds[index]:
            words = covered[_span(t)]
            if step > 0:
                change += int(np.count_nonzero(words == 0))
            words += step
            if step < 0:
                change -= int(np.count_nonzero(words == 0))
        changes[index] = change * MIN_ALIGN_BYTES * NUM_PARTITIONS
    return changes


def _span(tensor: TensorInfo) -> slice:
    """The words of a partition that a placed tensor covers."""
    assert tensor.address is not None
    first = tensor.address[1] // MIN_ALIGN_BYTES
    return slice(first, first - (-tensor.row_bytes // MIN_ALIGN_BYTES))


def check(stream: Stream, space: str, target: Target) -> None:
    """Refuse a kernel whose live tensors exceed the memory."""
    capacity = PSUM_BYTES if space == "psum" else target.sbuf_bytes
    found = measure(stream, space)
    if found.peak <= capacity:
        return
    at = found.peak_at
    live = found.live_at(at)
    largest = ", ".join(f"`{t.name}` {list(t.shape)} {t.dtype}" for t in live[:4])
    raise CapacityError(
        f"{len(live)} live tensors need {found.peak} bytes per partition of {space.upper()}, "
        f"{target.name} has {capacity}; the largest are {largest}",
        stream[at].where,
        "shorten lifetimes, use smaller tiles or fewer buffers",
    )

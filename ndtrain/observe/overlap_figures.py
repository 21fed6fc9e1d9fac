"""What overlap did in a step, operation by operation, from one rank's spans.

    tallying = Tallying()                       # one a rank: it learns how long compute takes alone
    tallies = tallying.step(recorder.drain())   # {"qkv": Tally(...), ..., "step": Tally(...)}
    overlap_figures(tallies, {"qkv": 65536})    # the map `overlap` of metrics.jsonl

Names of the figures and their meaning: `observe/metrics.py`.
"""

import re
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from itertools import accumulate
from statistics import median
from typing import Any

from ndtrain.core.spans import Span
from ndtrain.observe.metrics import COMMUNICATION_TRACKS, COMPUTE_TRACK, union

STEP = "step"
LINEARS = ("qkv", "o", "gate_up", "down", "head")
# They compute nothing of their own: any compute of the step may hide them.
TRANSFERS = ("gradient_buckets", "parameter_gathers", "offload", "checkpoint", "input")
OPERATIONS = (*LINEARS, "embedding", *TRANSFERS, "other")

_KEPT_ALONE = 16  # last durations of a kind of compute with nothing beside it
_NUMBER = re.compile(r"\d+")


@lru_cache(maxsize=65536)
def operation_of(name: str, track: str) -> str:
    """The operation that a span belongs to, by its name."""
    parts = name.split(".")
    if track == "dma":
        return next((part for part in parts if part in TRANSFERS), "other")
    if parts[0] == "buckets":
        return {"scatter": "gradient_buckets", "gather": "parameter_gathers"}.get(track, "other")
    return next((part for part in reversed(parts) if part in OPERATIONS), "other")


@dataclass(frozen=True, slots=True)
class Tally:
    """Of one operation in a step, on one rank. Sums and means of tallies are tallies.

    beside_ms: compute that ran beside communication and whose kind is known to take alone_ms with
    nothing beside it. arrived_bytes: of whatever operation, while this one computed; 0 where nobody
    counts.
    """

    compute_ms: float = 0.0
    comm_ms: float = 0.0
    exposed_comm_ms: float = 0.0
    comm_bytes: float = 0.0
    hidden_bytes: float = 0.0
    beside_ms: float = 0.0
    alone_ms: float = 0.0
    arrived_bytes: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def times(self, factor: float) -> "Tally":
        return Tally(*(factor * value for value in astuple(self)))


NUM_FIELDS = len(fields(Tally))
Tallies = dict[str, Tally]
"""Operation -> its tally, in the order of OPERATIONS, and of the whole step under STEP."""


def overlap_figures(
    tallies: Tallies, extra_bytes: Mapping[str, int], counts_arrivals: bool = False
) -> dict[str, dict[str, Any]]:
    """Figures of each operation that moved anything, and of the step.

    extra_bytes: that operations hold because they overlap. They take turns: the step's are the most
    of any linear, and what the transfers of buckets hold besides.
    """
    whole = tallies[STEP]
    largest = max((extra_bytes.get(operation, 0) for operation in LINEARS), default=0)
    beside = sum(extra_bytes.get(operation, 0) for operation in TRANSFERS)
    shown = {STEP: _figures(whole, whole.compute_ms, largest + beside, counts_arrivals)}
    for operation in OPERATIONS:
        own = tallies[operation]
        if own.comm_ms > 0:
            hideable_ms = own.compute_ms if operation in LINEARS else whole.compute_ms
            extra = extra_bytes.get(operation, 0)
            shown[operation] = _figures(own, hideable_ms, extra, counts_arrivals)
    return shown


def _figures(
    tally: Tally, hideable_ms: float, extra_bytes: int, counts_arrivals: bool
) -> dict[str, Any]:
    """hideable_ms: compute that could hide the communication."""
    hidden_ms, most_ms = tally.comm_ms - tally.exposed_comm_ms, min(hideable_ms, tally.comm_ms)
    return {
        "compute_ms": tally.compute_ms,
        "comm_ms": tally.comm_ms,
        "exposed_comm_ms": tally.exposed_comm_ms,
        "overlap_efficiency": hidden_ms / most_ms if most_ms > 0 else None,
        "compute_slowdown": tally.beside_ms / tally.alone_ms if tally.alone_ms > 0 else None,
        "comm_bytes": round(tally.comm_bytes),
        "hidden_bytes": round(tally.hidden_bytes),
        "arrived_bytes": round(tally.arrived_bytes) if counts_arrivals else None,
        "extra_bytes": extra_bytes,
    }


class Busy:
    """Times in which something runs: how much of any interval they cover."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self.intervals = union((span.start_ns, span.stop_ns) for span in spans)
        self._starts = [start for start, _ in self.intervals]
        self._stops = [stop for _, stop in self.intervals]
        self._before = [0, *accumulate(stop - start for start, stop in self.intervals)]

    def covered_ns(self, start_ns: int, stop_ns: int) -> int:
        """Length of the instants of [start, stop) in which something runs."""
        first, last = bisect_right(self._stops, start_ns), bisect_left(self._starts, stop_ns)
        if first >= last:
            return 0
        cut = max(0, start_ns - self._starts[first]) + max(0, self._stops[last - 1] - stop_ns)
        return self._before[last] - self._before[first] - cut


class Alone:
    """How long each kind of compute takes with no communication beside it: the median of a few."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[int]] = {}

    def learn(self, compute: Sequence[Span], communicating: Busy) -> None:
        for span in compute:
            if communicating.covered_ns(span.start_ns, span.stop_ns) == 0:
                kept = self._kept.setdefault(_kind(span.name), deque(maxlen=_KEPT_ALONE))
                kept.append(span.stop_ns - span.start_ns)

    def of(self, span: Span, communicating: Busy) -> float | None:
        """Nanoseconds of a span that had communication beside it; None: it had none, or unknown."""
        kept = self._kept.get(_kind(span.name))
        if kept is None or not communicating.covered_ns(span.start_ns, span.stop_ns):
            return None
        return median(kept)


class Tallying:
    """Tallies of one rank's steps."""

    def __init__(self) -> None:
        self._alone = Alone()

    def step(self, spans: Sequence[Span]) -> Tallies:
        compute = [span for span in spans if span.track == COMPUTE_TRACK]
        moving = [span for span in spans if span.track in COMMUNICATION_TRACKS]
        computing, communicating = Busy(compute), Busy(moving)
        self._alone.learn(compute, communicating)
        by_operation: dict[str, tuple[list[Span], list[Span]]] = {
            operation: ([], []) for operation in OPERATIONS
        }
        for kind, some in enumerate((compute, moving)):
            for span in some:
                by_operation[operation_of(span.name, span.track)][kind].append(span)
        tallies = {
            operation: self._tally(*own, computing, communicating)
            for operation, own in by_operation.items()
        }
        tallies[STEP] = self._tally(compute, moving, computing, communicating)
        return tallies

    def _tally(
        self, compute: Sequence[Span], moving: Sequence[Span], computing: Busy, communicating: Busy
    ) -> Tally:
        beside_ns, alone_ns = 0.0, 0.0
        for span in compute:
            own_ns = self._alone.of(span, communicating)
            if own_ns is not None:
                beside_ns += span.stop_ns - span.start_ns
                alone_ns += own_ns
        intervals = union((span.start_ns, span.stop_ns) for span in moving)
        comm_ns = sum(stop - start for start, stop in intervals)
        hidden_ns = sum(computing.covered_ns(*interval) for interval in intervals)
        busy = union((span.start_ns, span.stop_ns) for span in compute)
        return Tally(
            compute_ms=sum(stop - start for start, stop in busy) / 1e6,
            comm_ms=comm_ns / 1e6,
            exposed_comm_ms=(comm_ns - hidden_ns) / 1e6,
            comm_bytes=sum(span.num_bytes for span in moving),
            hidden_bytes=sum(hidden_bytes(span, computing) for span in moving),
            beside_ms=beside_ns / 1e6,
            alone_ms=alone_ns / 1e6,
            arrived_bytes=sum(span.num_bytes for span in compute),
        )


def hidden_bytes(span: Span, computing: Busy) -> float:
    """Bytes of a communication that moved while compute ran, at its mean rate."""
    duration_ns = span.stop_ns - span.start_ns
    if duration_ns == 0:
        return 0.0
    return span.num_bytes * computing.covered_ns(span.start_ns, span.stop_ns) / duration_ns


@lru_cache(maxsize=65536)
def _kind(name: str) -> str:
    """The same for the chunks of a product and for the same product of all layers."""
    return _NUMBER.sub("#", name)

"""Spans of work: (name, track, start, stop) in nanoseconds, kept in a bounded ring.

    spans = SpanRecorder()
    with spans.span("layers.0.mlp.down", track="compute"):
        ...
    spans.drain()  # -> list[Span], oldest first, and empties the ring

Tracks are the streams of the schedule (`compute`, `gather`, `scatter`, `dma`) plus `host` for the
phases of a step. Times come from `time.perf_counter_ns`: comparable inside one process only.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Span(NamedTuple):
    name: str
    track: str
    start_ns: int
    stop_ns: int
    num_bytes: int  # sent by this rank; of compute: that arrived meanwhile, 0 if nobody counts


class SpanRecorder:
    """Records spans of one rank. Costs about 1 us a span; the oldest are dropped when full.

    arrived: bytes that have arrived until now, asked around each span of compute; None: not asked.
    """

    def __init__(self, capacity: int = 65536) -> None:
        self._ring: deque[Span] = deque(maxlen=capacity)
        self.enabled = True
        self.arrived: Callable[[], int] | None = None

    def add(self, name: str, track: str, start_ns: int, stop_ns: int, num_bytes: int = 0) -> None:
        if self.enabled:
            self._ring.append(Span(name, track, start_ns, stop_ns, num_bytes))

    @contextmanager
    def span(self, name: str, track: str, num_bytes: int = 0) -> Iterator[None]:
        count = self.arrived if track == "compute" else None
        before = 0 if count is None else count()
        start_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            stop_ns = time.perf_counter_ns()
            if count is not None:
                num_bytes = count() - before
            self.add(name, track, start_ns, stop_ns, num_bytes)

    def drain(self) -> list[Span]:
        spans = list(self._ring)
        self._ring.clear()
        return spans

"""Spans as a trace that ui.perfetto.dev and chrome://tracing open, compute and communication apart.

    write_trace(run.trace_file(rank), recorder.drain(), rank, origin_ns)
    merge_traces([run.trace_file(rank) for rank in range(world_size)], run.merged_trace_file)

Format: Trace Event Format, JSON object form; complete events ("X", microseconds) and metadata
("M"); a process is a rank, a thread is a track. Clocks of ranks differ by an unknown constant, so
`origin_ns` is what this rank's `time.perf_counter_ns` read as it left a barrier that all ranks
passed together: times count from there, and ranks agree to within the barrier's own skew.
A transfer's `args` say its bytes, rate, operation, and how long nothing computed beside it; those
of compute with a transfer beside it, how many times longer it took than its kind does alone, and
where it was counted what arrived meanwhile.
`otherData` has the wall clock at the origin, by which other programs' times can be placed.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ndtrain.core.atomic import write_text
from ndtrain.core.spans import Span
from ndtrain.observe.metrics import COMMUNICATION_TRACKS, COMPUTE_TRACK
from ndtrain.observe.overlap_figures import Alone, Busy, operation_of

Event = dict[str, Any]

# The order from top to bottom; a track that is not named here comes after these.
_TRACK_ORDER = ("host", "compute", "gather", "scatter", "dma")
# Thread ids of a track start at a multiple of this, so that its lanes stay next to each other.
LANES_PER_TRACK = 100
ORIGIN_UNIX = "origin_unix_ns"  # in `otherData`: nanoseconds of 1970 at the origin of times


class Interval(Protocol):
    """What has a start and a stop in nanoseconds."""

    @property
    def start_ns(self) -> int: ...

    @property
    def stop_ns(self) -> int: ...


_Interval = TypeVar("_Interval", bound=Interval)


def trace_events(spans: Iterable[Span], rank: int, origin_ns: int) -> list[Event]:
    """Metadata first, then the spans in the order of their start, the enclosing one first.

    Spans of one track that overlap without one enclosing the other (two gathers under way) would
    be drawn as nested, so they go to further lanes of the track.
    """
    by_track: dict[str, list[Span]] = {}
    for span in spans:
        by_track.setdefault(span.track, []).append(span)
    tracks = [track for track in _TRACK_ORDER if track in by_track]
    tracks += sorted(set(by_track) - set(_TRACK_ORDER))

    named = [
        metadata("process_name", rank, 0, name=f"rank {rank}"),
        metadata("process_sort_index", rank, 0, sort_index=rank),
    ]
    complete: list[Event] = []
    beside = _Beside(by_track)
    for index, track in enumerate(tracks):
        for lane, lane_spans in enumerate(lanes(by_track[track])):
            thread = index * LANES_PER_TRACK + lane
            name = track if lane == 0 else f"{track} {lane + 1}"
            named.append(metadata("thread_name", rank, thread, name=name))
            named.append(metadata("thread_sort_index", rank, thread, sort_index=thread))
            complete += [_complete(span, rank, thread, origin_ns, beside) for span in lane_spans]
    return named + sorted(complete, key=_by_start)


def write_trace(path: Path, spans: Iterable[Span], rank: int, origin_ns: int) -> None:
    origin_unix_ns = time.time_ns() - (time.perf_counter_ns() - origin_ns)
    write_events(path, trace_events(spans, rank, origin_ns), {ORIGIN_UNIX: origin_unix_ns})


def merge_traces(paths: Sequence[Path], destination: Path) -> None:
    """One trace of several ranks, each its own process in it; the wall clock is the first's."""
    traces = [json.loads(path.read_bytes()) for path in paths]
    events = [event for trace in traces for event in trace["traceEvents"]]
    write_events(destination, events, traces[0].get("otherData", {}))


def lanes(spans: Iterable[_Interval]) -> list[list[_Interval]]:
    """Spans dealt into lanes in which any two are disjoint or one encloses the other."""
    dealt: list[list[_Interval]] = []
    open_stops: list[list[int]] = []  # of each lane: the stops of spans around the present
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.stop_ns)):
        for lane, stops in zip(dealt, open_stops, strict=True):
            while stops and stops[-1] <= span.start_ns:
                stops.pop()
            if not stops or span.stop_ns <= stops[-1]:
                lane.append(span)
                stops.append(span.stop_ns)
                break
        else:
            dealt.append([span])
            open_stops.append([span.stop_ns])
    return dealt


class _Beside:
    """What compute and communication did to each other."""

    def __init__(self, by_track: Mapping[str, Sequence[Span]]) -> None:
        compute = by_track.get(COMPUTE_TRACK, [])
        moving = [span for track in COMMUNICATION_TRACKS for span in by_track.get(track, [])]
        self._computing, self._communicating = Busy(compute), Busy(moving)
        self._alone = Alone()
        self._alone.learn(compute, self._communicating)

    def arguments(self, span: Span) -> dict[str, Any]:
        duration_ns = span.stop_ns - span.start_ns
        if span.track in COMMUNICATION_TRACKS:
            exposed_ns = duration_ns - self._computing.covered_ns(span.start_ns, span.stop_ns)
            operation = operation_of(span.name, span.track)
            return {"operation": operation, "exposed_us": exposed_ns / 1e3}
        if span.track == COMPUTE_TRACK:
            alone_ns = self._alone.of(span, self._communicating)
            slowdown = {"slowdown": round(duration_ns / alone_ns, 3)} if alone_ns else {}
            arrived = {"arrived_bytes": span.num_bytes} if span.num_bytes else {}
            return {**slowdown, **arrived}
        return {}


def _complete(span: Span, rank: int, thread: int, origin_ns: int, beside: _Beside) -> Event:
    duration_ns = span.stop_ns - span.start_ns
    event: Event = {
        "name": span.name,
        "cat": span.track,
        "ph": "X",
        "ts": (span.start_ns - origin_ns) / 1e3,
        "dur": duration_ns / 1e3,
        "pid": rank,
        "tid": thread,
    }
    if span.num_bytes and span.track != COMPUTE_TRACK:
        # Bytes a nanosecond are gigabytes a second.
        rate = {"GB/s": round(span.num_bytes / duration_ns, 3)} if duration_ns else {}
        event["args"] = {"bytes": span.num_bytes, **rate}
    arguments = beside.arguments(span)
    if arguments:
        event.setdefault("args", {}).update(arguments)
    return event


def metadata(kind: str, rank: int, thread: int, **values: str | int) -> Event:
    return {"name": kind, "ph": "M", "pid": rank, "tid": thread, "args": values}


def _by_start(event: Event) -> tuple[float, float]:
    return event["ts"], -event["dur"]


def write_events(path: Path, events: Sequence[Event], other: dict[str, Any]) -> None:
    """A trace with metadata first, then the complete events in the order of their start."""
    named = [event for event in events if event["ph"] == "M"]
    complete = [event for event in events if event["ph"] == "X"]
    ordered = named + sorted(complete, key=_by_start)
    # One event a line, so that a person can search and compare the file.
    lines = ",\n".join(json.dumps(event, allow_nan=False) for event in ordered)
    head = f'"displayTimeUnit": "ms", "otherData": {json.dumps(other)}'
    write_text(path, f'{{{head}, "traceEvents": [\n{lines}\n]}}\n')

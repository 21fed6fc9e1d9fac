"""Spans as a trace that ui.perfetto.dev and chrome://tracing open, compute and communication apart.

    write_trace(run.trace_file(rank), recorder.drain(), rank, origin_ns)
    merge_traces([run.trace_file(rank) for rank in range(world_size)], run.merged_trace_file)

Format: Trace Event Format, JSON object form; complete events ("X", microseconds) and metadata
("M"); a process is a rank, a thread is a track. Clocks of ranks differ by an unknown constant, so
`origin_ns` is what this rank's `time.perf_counter_ns` read as it left a barrier that all ranks
passed together: times count from there, and ranks agree to within the barrier's own skew.
A transfer's `args` say its bytes, rate, operation, and how long nothing computed beside it.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ndtrain.core.atomic import write_text
from ndtrain.core.spans import Span
from ndtrain.observe.metrics import COMMUNICATION_TRACKS, COMPUTE_TRACK
from ndtrain.observe.overlap_figures import Busy, operation_of

Event = dict[str, Any]

# The order from top to bottom; a track that is not named here comes after these.
_TRACK_ORDER = ("host", "compute", "gather", "scatter", "dma")
# Thread ids of a track start at a multiple of this, so that its lanes stay next to each other.
_LANES_PER_TRACK = 100


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

    metadata = [
        _metadata("process_name", rank, 0, name=f"rank {rank}"),
        _metadata("process_sort_index", rank, 0, sort_index=rank),
    ]
    complete: list[Event] = []
    computing = Busy(by_track.get(COMPUTE_TRACK, []))
    for index, track in enumerate(tracks):
        for lane, lane_spans in enumerate(_lanes(by_track[track])):
            thread = index * _LANES_PER_TRACK + lane
            name = track if lane == 0 else f"{track} {lane + 1}"
            metadata.append(_metadata("thread_name", rank, thread, name=name))
            metadata.append(_metadata("thread_sort_index", rank, thread, sort_index=thread))
            complete += [_complete(span, rank, thread, origin_ns, computing) for span in lane_spans]
    return metadata + sorted(complete, key=_by_start)


def write_trace(path: Path, spans: Iterable[Span], rank: int, origin_ns: int) -> None:
    _write_events(path, trace_events(spans, rank, origin_ns))


def merge_traces(paths: Sequence[Path], destination: Path) -> None:
    """One trace of several ranks, each its own process in it."""
    events: list[Event] = []
    for path in paths:
        events += json.loads(path.read_bytes())["traceEvents"]
    metadata = [event for event in events if event["ph"] == "M"]
    complete = [event for event in events if event["ph"] == "X"]
    _write_events(destination, metadata + sorted(complete, key=_by_start))


def _lanes(spans: Iterable[Span]) -> list[list[Span]]:
    """Spans dealt into lanes in which any two are disjoint or one encloses the other."""
    lanes: list[list[Span]] = []
    open_stops: list[list[int]] = []  # of each lane: the stops of spans around the present
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.stop_ns)):
        for lane, stops in zip(lanes, open_stops, strict=True):
            while stops and stops[-1] <= span.start_ns:
                stops.pop()
            if not stops or span.stop_ns <= stops[-1]:
                lane.append(span)
                stops.append(span.stop_ns)
                break
        else:
            lanes.append([span])
            open_stops.append([span.stop_ns])
    return lanes


def _complete(span: Span, rank: int, thread: int, origin_ns: int, computing: Busy) -> Event:
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
    if span.num_bytes:
        # Bytes a nanosecond are gigabytes a second.
        rate = {"GB/s": round(span.num_bytes / duration_ns, 3)} if duration_ns else {}
        event["args"] = {"bytes": span.num_bytes, **rate}
    if span.track in COMMUNICATION_TRACKS:
        exposed_ns = duration_ns - computing.covered_ns(span.start_ns, span.stop_ns)
        operation = operation_of(span.name, span.track)
        event.setdefault("args", {}).update(operation=operation, exposed_us=exposed_ns / 1e3)
    return event


def _metadata(kind: str, rank: int, thread: int, **values: str | int) -> Event:
    return {"name": kind, "ph": "M", "pid": rank, "tid": thread, "args": values}


def _by_start(event: Event) -> tuple[float, float]:
    return event["ts"], -event["dur"]


def _write_events(path: Path, events: list[Event]) -> None:
    # One event a line, so that a person can search and compare the file.
    lines = ",\n".join(json.dumps(event, allow_nan=False) for event in events)
    write_text(path, f'{{"displayTimeUnit": "ms", "traceEvents": [\n{lines}\n]}}\n')

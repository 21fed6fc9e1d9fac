"""Section: one traced step, compute and communication as lanes, what nothing hid marked.

Exposed as in `observe/metrics.py`: communication is under way and no compute runs on that rank.
"""

from collections.abc import Sequence
from typing import Any

from ndtrain.observe.metrics import (
    COMMUNICATION_TRACKS,
    COMPUTE_TRACK,
    difference,
    intersection_ns,
    union,
)
from ndtrain.observe.report.html import paragraph, table
from ndtrain.observe.report.lanes import Bar, Lane, lanes
from ndtrain.observe.report.run_files import RunFiles
from ndtrain.observe.report.scale import milliseconds, plain

TraceEvent = dict[str, Any]
Interval = tuple[int, int]  # nanoseconds

_FIRST_PHASE = "data"  # of a step on the track `host`
_PHASE_COLOUR = "grey"


def step_picture(run: RunFiles) -> str:
    if not run.traces:
        return paragraph(
            "This run recorded no trace. observe.trace_steps=[10,12] records these steps; the"
            " trace is written when the run ends or is stopped.",
            "muted",
        )
    first_rank = min(run.traces)
    steps = _steps(run.traces[first_rank])
    if not steps:
        return paragraph("The trace holds no whole step.", "muted")
    start, stop = steps[-1]  # the last one is warm
    rows: list[Lane] = []
    figures = []
    for rank, events in run.traces.items():
        inside = [e for e in events if e["ts"] < stop and e["ts"] + e["dur"] > start]
        rows += _rank_lanes(rank, inside, start)
        figures.append([f"rank {rank}", *_figures(inside, start, stop)])
    heads = ["", "step, ms", "compute, ms", "communication, ms", "hidden, ms", "exposed, ms"]
    length = milliseconds((stop - start) / 1e3)
    which = f"{_which(run, len(steps))}, {length} on rank {first_rank}."
    words = (
        "Blue: compute; green: communication that compute hides; orange: exposed communication,"
        " while no compute runs on that rank. Grey: phases. Point at a bar for its name."
        " The whole trace is in trace/, for ui.perfetto.dev."
    )
    return (
        paragraph(which)
        + lanes(rows, stop - start)
        + paragraph(words, "muted")
        + table(heads, figures, numbers=5)
    )


def _steps(events: Sequence[TraceEvent]) -> list[tuple[float, float]]:
    """Start and stop in microseconds; a step begins with its data."""
    host = [event for event in events if event["cat"] == "host"]
    starts = sorted(event["ts"] for event in host if event["name"] == _FIRST_PHASE)
    if not starts:
        return []
    end = max(event["ts"] + event["dur"] for event in host)
    # The time between two steps (saves, evaluations) belongs to neither.
    stops = [
        max(e["ts"] + e["dur"] for e in host if e["ts"] < following)
        for following in [*starts[1:], end + 1]
    ]
    return list(zip(starts, stops, strict=True))


def _which(run: RunFiles, num_steps: int) -> str:
    asked = run.setting("observe.trace_steps")
    if isinstance(asked, list) and len(asked) == 2 and asked[1] - asked[0] + 1 == num_steps:
        return f"Step {asked[1]}"
    return f"The last of {num_steps} traced steps"


def _rank_lanes(rank: int, events: Sequence[TraceEvent], zero: float) -> list[Lane]:
    compute = union(map(_interval, _of(events, COMPUTE_TRACK)))
    phases = [_bar(event, zero, _PHASE_COLOUR, labelled=True) for event in _of(events, "host")]
    rows = [Lane(f"rank {rank}  host", phases)]
    rows.append(Lane("compute", [_bar(e, zero, "blue") for e in _of(events, COMPUTE_TRACK)]))
    for track in COMMUNICATION_TRACKS:
        transfers = _of(events, track)
        if not transfers:
            continue
        bars = [_bar(event, zero, "green") for event in transfers]
        bars += [
            Bar(begin / 1e3 - zero, end / 1e3 - zero, f"exposed on {track}", "red")
            for begin, end in difference(union(map(_interval, transfers)), compute)
        ]
        rows.append(Lane(track, bars))
    return rows


def _of(events: Sequence[TraceEvent], track: str) -> list[TraceEvent]:
    return [event for event in events if event["cat"] == track]


def _interval(event: TraceEvent) -> Interval:
    return round(event["ts"] * 1e3), round((event["ts"] + event["dur"]) * 1e3)


def _bar(event: TraceEvent, zero: float, colour: str, labelled: bool = False) -> Bar:
    start = event["ts"] - zero
    return Bar(start, start + event["dur"], event["name"], colour, labelled)


def _figures(events: Sequence[TraceEvent], start: float, stop: float) -> list[str]:
    """Milliseconds of one rank inside the step, simultaneous spans counted once."""
    step = [(round(start * 1e3), round(stop * 1e3))]
    compute = union(map(_interval, _of(events, COMPUTE_TRACK)))
    transfers = union(_interval(e) for e in events if e["cat"] in COMMUNICATION_TRACKS)
    compute_ns = intersection_ns(compute, step)
    comm_ns = intersection_ns(transfers, step)
    exposed_ns = intersection_ns(difference(transfers, compute), step)
    values = (stop - start) * 1e3, compute_ns, comm_ns, comm_ns - exposed_ns, exposed_ns
    return [plain(value / 1e6) for value in values]

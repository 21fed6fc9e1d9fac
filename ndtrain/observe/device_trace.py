"""Puts Neuron profiles beside the ranks of a run's trace, each as a process of its own.

    add_profiles(run.merged_trace_file, [read_profile(path)], align="forward")

Profiles that an earlier call put there are replaced. A system profile counts nanoseconds since
1970, so it is placed by the wall clock that the trace notes at its origin: as well as the clocks of
the machines agree. A device profile has a clock of its own: its first instruction is put at the
start of the host span that `align` names, so times within it are exact and its place is not.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ndtrain.core.errors import UserError
from ndtrain.observe.neuron_profile import Profile, ProfileEvent
from ndtrain.observe.trace import (
    LANES_PER_TRACK,
    ORIGIN_UNIX,
    Event,
    lanes,
    metadata,
    write_events,
)

# Processes of a trace are ranks; those of profiles are numbered beyond any rank.
_FIRST_PROCESS = 1_000_000
_TRACE_HELP = "run with observe.trace_steps=[10,12], for example"


def add_profiles(trace_file: Path, profiles: Sequence[Profile], align: str | None) -> None:
    """Rewrites the trace with the profiles in it.

    align: name of a span of the trace; needed for device profiles, refused without one.
    Raises UserError also for a trace without spans or wall clock, and for a system profile of
    another time.
    """
    trace = _read_trace(trace_file)
    events = [event for event in trace["traceEvents"] if event["pid"] < _FIRST_PROCESS]
    spans = [event for event in events if event["ph"] == "X"]
    if not spans:
        raise UserError("the trace has no spans", str(trace_file), _TRACE_HELP)
    device_zero_us = _device_zero(spans, profiles, align, trace_file)
    added: list[Event] = []
    for number, profile in enumerate(profiles):
        process = _FIRST_PROCESS + number
        if profile.kind == "device":
            first_ns = min(event.start_ns for event in profile.events)
            origin_ns = first_ns - round(device_zero_us * 1e3)
            label = f"{profile.file.name} (device, put at {align})"
        else:
            origin_ns = _wall_clock(trace, trace_file)
            _require_overlap(profile, origin_ns, spans)
            label = f"{profile.file.name} (system)"
        added += _process(profile.events, process, label, origin_ns)
    write_events(trace_file, events + added, trace.get("otherData", {}))


def _read_trace(trace_file: Path) -> dict[str, Any]:
    try:
        trace = json.loads(trace_file.read_bytes())
        for event in trace["traceEvents"]:
            if event["ph"] == "X":
                _ = event["name"], event["ts"] + event["dur"]
            _ = event["pid"] + 0
    except FileNotFoundError:
        raise UserError("the run has no trace", str(trace_file), _TRACE_HELP) from None
    except (ValueError, KeyError, TypeError):
        raise UserError("not a trace of ndtrain", str(trace_file), _TRACE_HELP) from None
    return trace


def _device_zero(
    spans: Sequence[Event], profiles: Sequence[Profile], align: str | None, trace_file: Path
) -> float:
    """Where in the trace the first instruction of a device profile stands, in microseconds."""
    has_device = any(profile.kind == "device" for profile in profiles)
    if align is None and not has_device:
        return 0.0
    if align is None:
        raise UserError(
            "a device profile has a clock of its own",
            "the command line",
            f"say with --align at which span it begins: {_span_names(spans)}",
        )
    if not has_device:
        raise UserError(
            "--align is for device profiles", "the command line", "system profiles have the time"
        )
    starts = [event["ts"] for event in spans if event["name"] == align]
    if not starts:
        raise UserError(
            f"no span `{align}` in the trace", str(trace_file), f"it has {_span_names(spans)}"
        )
    return min(starts)


def _span_names(spans: Sequence[Event]) -> str:
    host = [event["name"] for event in spans if event.get("cat") == "host"]
    return ", ".join(dict.fromkeys(host or [event["name"] for event in spans][:8]))


def _wall_clock(trace: dict[str, Any], trace_file: Path) -> int:
    origin = trace.get("otherData", {}).get(ORIGIN_UNIX)
    if not isinstance(origin, int):
        raise UserError(
            "the trace does not say when it was taken",
            str(trace_file),
            "it was written by an earlier ndtrain: trace the run again",
        )
    return origin


def _require_overlap(profile: Profile, origin_ns: int, spans: Sequence[Event]) -> None:
    first_ns = origin_ns + round(min(event["ts"] for event in spans) * 1e3)
    last_ns = origin_ns + round(max(event["ts"] + event["dur"] for event in spans) * 1e3)
    if not any(e.start_ns <= last_ns and e.stop_ns >= first_ns for e in profile.events):
        away_s = (min(event.start_ns for event in profile.events) - first_ns) / 1e9
        raise UserError(
            f"no event falls into the traced steps: the profile begins {away_s:+.1f} s from them",
            str(profile.file),
            "profile the run that was traced; between machines, their clocks have to agree",
        )


def _process(
    events: Sequence[ProfileEvent], process: int, label: str, origin_ns: int
) -> list[Event]:
    by_track: dict[str, list[ProfileEvent]] = {}
    for event in events:
        by_track.setdefault(event.track, []).append(event)
    result = [
        metadata("process_name", process, 0, name=label),
        metadata("process_sort_index", process, 0, sort_index=process),
    ]
    for index, track in enumerate(sorted(by_track)):
        for lane, lane_events in enumerate(lanes(by_track[track])):
            thread = index * LANES_PER_TRACK + lane
            name = track if lane == 0 else f"{track} {lane + 1}"
            result.append(metadata("thread_name", process, thread, name=name))
            result.append(metadata("thread_sort_index", process, thread, sort_index=thread))
            result += [
                {
                    "name": event.name,
                    "cat": track,
                    "ph": "X",
                    "ts": (event.start_ns - origin_ns) / 1e3,
                    "dur": (event.stop_ns - event.start_ns) / 1e3,
                    "pid": process,
                    "tid": thread,
                    "args": event.details,
                }
                for event in lane_events
            ]
    return result

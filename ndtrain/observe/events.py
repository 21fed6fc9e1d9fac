"""What happened to a run besides its steps: starts, saves, warnings, stops, failures.

    sink = EventSink(run.events_file)        # a sink like the others: each note is an event
    sink.note("saved runs/small/checkpoints/step_00000020")
    append_event(run.events_file, step=20, text="failed: no space left on device")
    events = read_events(run.events_file)

`events.jsonl` only grows: a run that was cut and goes on has both lives in it, while steps that are
run again appear once in `metrics.jsonl`. An event is one write, so no crash mixes two of them; a
line that a crash tore is left out when reading.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ndtrain.observe.sinks import Record

# How a note begins says what it is; the rest is information.
_KINDS = {
    "warning: ": "warning",
    "failed: ": "failure",
    "hung: ": "failure",
    "saved ": "save",
    "resumed ": "resume",
    "started: ": "start",
    "repeated: ": "resume",
    "stopped: ": "stop",
    "finished: ": "finish",
}


@dataclass(frozen=True, slots=True)
class Event:
    """time: UTC, ISO 8601. step: the last one that was completed then."""

    time: str
    step: int
    text: str

    @property
    def kind(self) -> str:
        """start, resume, save, warning, failure, stop, finish or note."""
        matches = (kind for prefix, kind in _KINDS.items() if self.text.startswith(prefix))
        return next(matches, "note")


class EventSink:
    """Appends the notes of a run; takes the step from its records."""

    def __init__(self, path: Path, start_step: int = 0) -> None:
        self._path = path
        self._step = start_step

    def write(self, record: Record) -> None:
        self._step = record["step"]

    def note(self, text: str) -> None:
        append_event(self._path, self._step, text)

    def close(self) -> None:
        pass


def append_event(path: Path, step: int, text: str) -> None:
    event = Event(datetime.now(UTC).isoformat(timespec="seconds"), step, text)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, json.dumps(asdict(event)).encode() + b"\n")
    finally:
        os.close(descriptor)


def read_events(path: Path) -> list[Event]:
    """Oldest first; empty where there is no file."""
    events = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            value = json.loads(line)
            events.append(Event(str(value["time"]), int(value["step"]), str(value["text"])))
        except (ValueError, KeyError, TypeError):
            continue
    return events

"""Everything that a run directory tells, read leniently: the run may be running, cut or damaged.

run = read_run(Path("runs/small"))
run.steps, run.evaluations            # records of metrics.jsonl, by step, each step once
run.problems                          # sentences about what could not be read
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ndtrain.core.errors import UserError
from ndtrain.observe.events import Event, read_events
from ndtrain.observe.run_directory import RunDirectory, Status
from ndtrain.observe.sinks import Record, parse_record

MAX_TRACED_RANKS = 4  # as many as a picture has room for


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """path: of the run directory. traces: rank -> complete events of the Trace Event Format."""

    path: Path
    status: Status | None = None
    status_time: datetime | None = None  # when it was written
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    steps: list[Record] = field(default_factory=list)
    evaluations: list[Record] = field(default_factory=list)
    saves: list[Record] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    traces: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.setting("run.name", self.path.resolve().name))

    def setting(self, key: str, default: Any = None) -> Any:
        """Value of a dotted key; the default where the configuration could not be read."""
        section, _, name = key.partition(".")
        return self.config.get(section, {}).get(name, default)


def read_run(path: Path) -> RunFiles:
    """Raises UserError if the folder is none of a run."""
    run = RunDirectory(path)
    if not run.config_file.is_file() and not run.status_file.is_file():
        raise UserError(
            "not a run directory: it has neither config.yaml nor status.json",
            str(path),
            "give the folder of a run, such as runs/quickstart",
        )
    problems: list[str] = []

    def read(file: Path, parse: Callable[[str], Any], kind: type) -> Any:
        """What the file holds; empty, with a word about it, if that is nothing usable."""
        if not file.exists():
            return kind()
        try:
            value = parse(file.read_text("utf-8"))
            if not isinstance(value, kind):
                raise ValueError(f"{type(value).__name__}, not {kind.__name__}")
        except (OSError, ValueError, yaml.YAMLError) as error:
            name = file.relative_to(path)
            problems.append(f"{name} is not readable: {str(error).splitlines()[0]}")
            return kind()
        return value

    config = read(run.config_file, yaml.safe_load, dict)
    steps, evaluations, saves = _records(read(run.metrics_file, str.splitlines, list), problems)
    return RunFiles(
        path=path,
        status=_status(run, problems),
        status_time=_time_of(run.status_file),
        config={name: value for name, value in config.items() if isinstance(value, dict)},
        origins=read(run.origins_file, json.loads, dict),
        overrides=read(run.overrides_file, str.splitlines, list),
        environment=read(run.environment_file, json.loads, dict),
        plan=read(path / "plan.json", json.loads, dict),
        steps=steps,
        evaluations=evaluations,
        saves=saves,
        events=read_events(run.events_file),
        traces={
            rank: _complete(read(file, json.loads, dict), file, problems)
            for rank in range(MAX_TRACED_RANKS)
            if (file := run.trace_file(rank)).exists()
        },
        problems=problems,
    )


def _status(run: RunDirectory, problems: list[str]) -> Status | None:
    try:
        return run.status()
    except UserError as error:
        problems.append(f"status.json is not readable: {error.what}")
        return None


def _time_of(file: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except OSError:
        return None


def _records(
    lines: list[str], problems: list[str]
) -> tuple[list[Record], list[Record], list[Record]]:
    """Steps, evaluations, saves, each in order; of a step that is there twice the last."""
    steps: dict[int, Record] = {}
    evaluations: dict[int, Record] = {}
    saves: dict[int, Record] = {}
    unreadable = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_record(line)
        except (ValueError, KeyError, TypeError):
            unreadable.append(number)
            continue
        for kind, key in ((steps, "loss"), (evaluations, "held_out_loss"), (saves, "save_ms")):
            if key in record:
                kind[record["step"]] = record
    # The last line is torn while a run writes it, and after a crash: it will be run again.
    if unreadable and unreadable != [len(lines)]:
        shown = ", ".join(map(str, unreadable[:5])) + (", ..." if len(unreadable) > 5 else "")
        problems.append(
            f"metrics.jsonl: {len(unreadable)} of {len(lines)} lines are no records (line {shown})"
        )
    return _in_order(steps), _in_order(evaluations), _in_order(saves)


def _in_order(records: dict[int, Record]) -> list[Record]:
    return [records[step] for step in sorted(records)]


def _complete(trace: dict[str, Any], file: Path, problems: list[str]) -> list[dict[str, Any]]:
    wanted = {"name": str, "cat": str, "ts": int | float, "dur": int | float}
    try:
        events = [event for event in trace.get("traceEvents", []) if event.get("ph") == "X"]
        if not all(
            isinstance(event[key], kind) for event in events for key, kind in wanted.items()
        ):
            raise TypeError("an event without name, category, start or duration")
    except (AttributeError, KeyError, TypeError):
        problems.append(f"trace/{file.name} is no trace")
        return []
    return events

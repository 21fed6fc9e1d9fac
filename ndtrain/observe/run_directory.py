"""The folder of a run: what was asked, on what it ran, what came of it.

run = RunDirectory(Path("runs/small"))
if run.status() is None:  # a new run
    run.create(config, overrides=["optim.lr=1e-4"], origins=loaded.origins)
run.write_status(Status(state="finished", step=200, checkpoint="checkpoints/step_00000200"))

config.yaml      every key, resolved        log/rank_0000.log
origins.json     where each value is from   trace/rank_0000.json, trace/merged.json
overrides.txt    one override a line        checkpoints/
env.json         versions, machine, commit  metrics.jsonl    one record a step
status.json      how it stands              events.jsonl     saves, warnings, stops
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import yaml

from ndtrain.config.schema import Config
from ndtrain.core.atomic import write_json, write_text
from ndtrain.core.errors import UserError
from ndtrain.core.faults import reach
from ndtrain.observe.environment import describe_environment

_CREATING = ".creating"  # in a folder whose making is under way, or was cut

State = Literal["running", "finished", "preempted", "failed", "unhealthy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Contents of `status.json`: the truth about a run, whatever a launcher made of exit codes.

    step: optimizer steps that were completed. checkpoint: the last complete one, relative to the
    run directory. reason: one line for a person. retryable: starting again may help.
    """

    state: State
    step: int
    checkpoint: str | None = None
    reason: str = ""
    retryable: bool = False


@dataclass(frozen=True)
class RunDirectory:
    """Names and writers of one run's files. Rank 0 writes all that is not named by rank."""

    path: Path
    config_file: Path = field(init=False)
    overrides_file: Path = field(init=False)
    origins_file: Path = field(init=False)
    environment_file: Path = field(init=False)
    metrics_file: Path = field(init=False)
    events_file: Path = field(init=False)
    status_file: Path = field(init=False)
    checkpoints: Path = field(init=False)
    merged_trace_file: Path = field(init=False)

    def __post_init__(self) -> None:
        names = {
            "config_file": "config.yaml",
            "overrides_file": "overrides.txt",
            "origins_file": "origins.json",
            "environment_file": "env.json",
            "metrics_file": "metrics.jsonl",
            "events_file": "events.jsonl",
            "status_file": "status.json",
            "checkpoints": "checkpoints",
            "merged_trace_file": "trace/merged.json",
        }
        for attribute, name in names.items():
            object.__setattr__(self, attribute, self.path / name)

    def log_file(self, rank: int) -> Path:
        return self.path / "log" / f"rank_{rank:04d}.log"

    def trace_file(self, rank: int) -> Path:
        return self.path / "trace" / f"rank_{rank:04d}.json"

    def create(self, config: Config, overrides: list[str], origins: Mapping[str, str]) -> None:
        """Makes the folder with config, overrides, environment and a `running` status at step 0.

        The status comes last, so a folder that has one is complete; one that a kill left without
        is recognized by its marker and completed. Raises UserError for a folder with anything else
        in it.
        """
        marker = self.path / _CREATING
        is_torn = marker.exists() and not self.status_file.exists()
        is_free = not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))
        if not is_free and not is_torn:
            raise UserError(
                "the run directory is not empty",
                str(self.path),
                "choose another run.name, or move the folder away",
            )
        self.path.mkdir(parents=True, exist_ok=True)
        reach("create.folder_made")
        marker.touch()
        reach("create.begun")
        for torn in self.path.glob(".*.tmp"):
            torn.unlink()
        for folder in (self.path / "log", self.path / "trace", self.checkpoints):
            folder.mkdir(exist_ok=True)
        reach("create.folders_made")
        self.write_inputs(config, overrides, origins)
        reach("create.inputs_written")
        self.write_status(Status(state="running", step=0))

    def write_inputs(
        self, config: Config, overrides: list[str], origins: Mapping[str, str]
    ) -> None:
        """Writes what the run was asked and where it runs; again when it is resumed.

        origins: dotted key -> where its value came from, as `config.load` tells.
        """
        resolved = yaml.safe_dump(
            config.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        write_text(self.config_file, resolved)
        reach("create.config_written")
        write_json(self.origins_file, dict(origins))
        write_text(self.overrides_file, "".join(f"{override}\n" for override in overrides))
        write_json(self.environment_file, describe_environment())

    def write_status(self, status: Status) -> None:
        write_json(self.status_file, asdict(status))
        reach("create.status_written")
        (self.path / _CREATING).unlink(missing_ok=True)  # a folder with a status is complete

    def status(self) -> Status | None:
        """What `status.json` says; None where there is none. Raises UserError if it is damaged."""
        try:
            values = json.loads(self.status_file.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            values = None
        try:
            status = Status(**values)
        except TypeError:
            status = None
        if status is None or status.state not in get_args(State):
            raise UserError(
                "not the status of a run",
                str(self.status_file),
                "the file was changed by hand or by another program; remove it or the folder",
            )
        return status

"""The folder of a run: what was asked, on what it ran, what came of it.

run = RunDirectory(Path("runs/small"))
if run.status() is None:  # a new run
    run.create(config, overrides=["optim.lr=1e-4"])
run.write_status(Status(state="finished", step=200, checkpoint="checkpoints/step_00000200"))

config.yaml      every key, resolved        log/rank_0000.log
overrides.txt    one override a line        trace/rank_0000.json, trace/merged.json
env.json         versions, machine, commit  checkpoints/
metrics.jsonl    one record a step          status.json
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import yaml

from ndtrain.config.schema import Config
from ndtrain.core.atomic import write_json, write_text
from ndtrain.core.errors import UserError
from ndtrain.observe.environment import describe_environment

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
    environment_file: Path = field(init=False)
    metrics_file: Path = field(init=False)
    status_file: Path = field(init=False)
    checkpoints: Path = field(init=False)
    merged_trace_file: Path = field(init=False)

    def __post_init__(self) -> None:
        names = {
            "config_file": "config.yaml",
            "overrides_file": "overrides.txt",
            "environment_file": "env.json",
            "metrics_file": "metrics.jsonl",
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

    def create(self, config: Config, overrides: list[str]) -> None:
        """Makes the folder with config, overrides, environment and a `running` status at step 0.

        The status comes last, so a folder that has one is complete. Raises UserError if there is
        anything in the folder already.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(
                "the run directory is not empty",
                str(self.path),
                "choose another run.name, or move the folder away",
            )
        for folder in (self.path / "log", self.path / "trace", self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        self.write_inputs(config, overrides)
        self.write_status(Status(state="running", step=0))

    def write_inputs(self, config: Config, overrides: list[str]) -> None:
        """Writes what the run was asked and where it runs; again when it is resumed."""
        resolved = yaml.safe_dump(
            config.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        write_text(self.config_file, resolved)
        write_text(self.overrides_file, "".join(f"{override}\n" for override in overrides))
        write_json(self.environment_file, describe_environment())

    def write_status(self, status: Status) -> None:
        write_json(self.status_file, asdict(status))

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

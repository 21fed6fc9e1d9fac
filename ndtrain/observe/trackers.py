"""TensorBoard and Weights & Biases as sinks: asked for they must be there, and never stop a run.

    require_trackers(["wandb"])           # before any work; UserError says how to install it
    sinks = open_trackers(config, run_directory, start_step=120, note=note)

A tracker that fails while the run trains is warned of once and gets nothing any more. A run that
goes on continues the same TensorBoard folder and the same W&B run, whose id is in `wandb.json` of
the run directory. Their packages are imported here and only if they are asked for.

Why not accelerate's trackers, which wrap the same two: they want accelerate's process state, which
refuses ranks that met at a file, and they cannot be told to continue a run.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from ndtrain.config.schema import Config
from ndtrain.core.atomic import write_json
from ndtrain.core.errors import UserError
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.observe.sinks import Record, Sink


class Tracker(Protocol):
    where: str
    """Where a person finds it."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name; names with a slash belong together."""

    def finish(self) -> None:
        """Whatever is still on its way is sent or written."""


class TensorBoard:
    """Event files in RUN/tensorboard, for `tensorboard --logdir RUN`."""

    def __init__(self, config: Config, run: RunDirectory, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.where = str(run.path / "tensorboard")
        # purge_step: what a cut process wrote of steps that will be run again is not shown.
        self._writer = SummaryWriter(self.where, purge_step=start_step + 1 if start_step else None)
        text = "\n".join(f"    {key}: {value}" for key, value in _flat(config).items())
        self._writer.add_text("configuration", text, start_step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()


class Wandb:
    """A run of observe.project; where it goes and who writes is W&B's to configure (WANDB_*)."""

    def __init__(self, config: Config, run: RunDirectory, start_step: int) -> None:
        import wandb

        identity = run.path / "wandb.json"
        if not identity.exists():
            write_json(identity, {"id": secrets.token_hex(8)})
        self._run = wandb.init(
            project=config.observe.project,
            name=config.run.name,
            id=json.loads(identity.read_bytes())["id"],
            resume="allow",
            dir=str(run.path),
            config=_flat(config),
            # The terminal is ours: neither captured nor written to.
            settings=wandb.Settings(console="off", silent=True),
        )
        self.where: str = self._run.dir if self._run.offline else self._run.url or "W&B"
        # Its own steps only grow: of a step that is run again it would drop the second life.
        self._run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def finish(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Config, RunDirectory, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
}


class TrackerSink:
    """Numbers of the records for one tracker, until it fails."""

    def __init__(self, name: str, tracker: Tracker, note: Callable[[str], None]) -> None:
        self._name = name
        self._tracker: Tracker | None = tracker
        self._tell = note

    def write(self, record: Record) -> None:
        tracker = self._tracker
        if tracker is not None:
            values = dict(_numbers(record))
            step = int(values.pop("step"))
            self._guarded(lambda: tracker.log(values, step))

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        tracker = self._tracker
        if tracker is not None:
            self._guarded(tracker.finish)
            self._tracker = None

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # of a library or a network: no reason to lose a run
            self._tracker = None
            reason = str(error).partition("\n")[0]
            self._tell(
                f"warning: {self._name} failed and gets nothing any more:"
                f" {type(error).__name__}: {reason}; metrics.jsonl has every step"
            )


def require_trackers(names: Iterable[str]) -> None:
    """Raises UserError, with the command that helps, if a package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"observe.trackers has {name}, which is not installed",
                "observe.trackers",
                f"pip install {name}, or pip install 'ndtrain[trackers]'",
            )


def open_trackers(
    config: Config, run: RunDirectory, start_step: int, note: Callable[[str], None]
) -> list[Sink]:
    """Those of observe.trackers. Raises UserError for one that does not start.

    note: is told where each of them writes and, later, that one failed.
    """
    sinks: list[Sink] = []
    for name in dict.fromkeys(config.observe.trackers):
        try:
            tracker = TRACKERS[name](config, run, start_step)
        except Exception as error:
            for sink in sinks:
                sink.close()
            raise UserError(
                f"{name} does not start: {type(error).__name__}: {error}".splitlines()[0],
                "observe.trackers",
                f"set it up, or leave {name} out of observe.trackers",
            ) from error
        note(f"{name}: the metrics go to {tracker.where} too")
        sinks.append(TrackerSink(name, tracker, note))
    return sinks


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """`overlap` is a map of maps: overlap/qkv/comm_ms."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def _flat(config: Config) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for section, values in config.model_dump(mode="json").items()
        for name, value in values.items()
    }

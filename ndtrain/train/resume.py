"""Where a run goes on: the newest sound checkpoint of its directory, or one that was named.

    start = find_start(config, loaded, directory, runtime)
    start.checkpoint, start.state, start.notes        # None, None: from the beginning

All ranks share the work of comparing hashes, and agree. A damaged checkpoint is named and passed
over; its folder is renamed once a sound one is found, so nothing is lost and its name is free.
"""

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.source import open_checkpoint, step_folders, step_of
from ndtrain.config.load import Loaded
from ndtrain.config.schema import Config
from ndtrain.core.errors import Unhealthy, UserError
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.agree import Bystander, first_rank_decides, gather_json, together
from ndtrain.train.training_state import TrainingState, changes_of_config, write_plan


@dataclass
class Start:
    checkpoint: Checkpoint | None = None
    state: TrainingState | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        return self.state.step if self.state else 0

    def describe(self, config: Config) -> list[str]:
        """What was restored, and every key of the configuration that changed since."""
        if self.checkpoint is None or self.state is None:
            return self.notes
        position = f"epoch {self.state.data['epoch']}, row {self.state.data['row']}"
        restored = (
            f"resumed {self.checkpoint.folder}: weights, optimizer, data position ({position}),"
            f" {len(self.state.losses)} losses; {self.step} steps done"
        )
        changes = changes_of_config(self.state.config, config)
        return [*self.notes, restored, *(f"changed since: {change}" for change in changes)]


def find_start(config: Config, loaded: Loaded, directory: RunDirectory, runtime: Runtime) -> Start:
    """Makes the run directory, or opens it. Collective over the world.

    config: what `loaded` became for this number of ranks.

    Raises UserError if the directory belongs to something else, if a named checkpoint is damaged
    or if none of several is sound.
    """
    resume = config.checkpoint.resume
    is_known = first_rank_decides(runtime, lambda: directory.status() is not None, "run_status")
    inside = resume not in ("auto", "never") and _is_inside(Path(resume), directory)

    def create() -> None:
        if runtime.mesh.world.rank == 0:
            directory.create(config, list(loaded.overrides), loaded.origins)

    if not is_known or not (resume == "auto" or inside):
        together(runtime, create, "create_run")
    if resume == "never":
        return Start()
    if resume != "auto":
        return _named(Path(resume).expanduser(), directory, runtime)
    return _newest(directory, runtime) if is_known else Start()


def lock_run(folder: Path) -> IO[str]:
    """Keeps a second run out of the directory until the file is closed or the process dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    stream = folder.with_name(f".{folder.name}.lock").open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise UserError(
            "the run is training already, in another process",
            str(folder),
            "wait for it, stop it, or choose another run.name",
        ) from None
    return stream


def _is_inside(path: Path, directory: RunDirectory) -> bool:
    path = path.expanduser().resolve()
    return directory.path.resolve() in [path, *path.parents]


def _named(path: Path, directory: RunDirectory, runtime: Runtime) -> Start:
    """Never falls back: who names a checkpoint wants that one."""

    def find() -> str:
        return str(open_checkpoint(path).folder)

    folder = Path(first_rank_decides(runtime, find, "resume.find"))
    start = together(runtime, lambda: _opened(folder, runtime), "resume.verify")
    if not _is_inside(folder, directory):
        plan = start.state.plan if start.state and runtime.mesh.world.rank == 0 else {}
        together(runtime, lambda: write_plan(directory, plan), "resume.plan")
    else:
        later = [other for other in step_folders(directory.path) if step_of(other) > start.step]
        _set_aside(later, "abandoned", runtime, start.notes)
    return start


def _newest(directory: RunDirectory, runtime: Runtime) -> Start:
    names = first_rank_decides(
        runtime, lambda: [path.name for path in step_folders(directory.path)], "resume.list"
    )
    notes: list[str] = []
    damaged: list[Path] = []
    for name in reversed(names):
        folder = directory.checkpoints / name
        start, error = None, None
        try:
            start = _opened(folder, runtime)
        except (UserError, OSError) as failure:
            error = str(getattr(failure, "what", failure))
        errors = [text for text in gather_json(runtime, error, "resume.verify") if text]
        if not errors and start is not None:
            start.notes = notes
            _set_aside(damaged, "corrupt", runtime, notes)
            return start
        damaged.append(folder)
        notes += [f"warning: {folder} is passed over: {text}" for text in dict.fromkeys(errors)]
    if damaged:
        if runtime.mesh.world.rank:
            raise Bystander(Unhealthy.exit_code)
        raise Unhealthy(
            "none of the checkpoints is sound: " + "; ".join(notes),
            str(directory.checkpoints),
            "restore the files, or start anew under another run.name",
        )
    return Start(notes=[f"{directory.path} has no checkpoint yet: from the beginning"])


def _opened(folder: Path, runtime: Runtime) -> Start:
    """Verified, this rank's share of the files. Raises UserError naming what is damaged."""
    world = runtime.mesh.world
    checkpoint = Checkpoint(folder)
    checkpoint.verify(world.rank, world.size)
    verified = Checkpoint(folder, is_verified=True)
    state = TrainingState.from_json(verified.training())
    if state.step != checkpoint.manifest.step or state.step != step_of(folder, state.step):
        raise UserError(f"it holds step {state.step}, which its name does not say", str(folder))
    return Start(verified, state)


def _set_aside(folders: list[Path], suffix: str, runtime: Runtime, notes: list[str]) -> None:
    """Renames folders, so that their names are free and what is in them stays."""

    def rename() -> list[str]:
        return [f"{folder} is kept as {_kept(folder, suffix).name}" for folder in folders]

    notes += first_rank_decides(runtime, rename, "resume.set_aside")


def _kept(folder: Path, suffix: str) -> Path:
    """Its new name, which nothing else has."""
    number = 0
    while (target := folder.with_name(f"{folder.name}.{suffix}{number or ''}")).exists():
        number += 1
    os.rename(folder, target)
    return target

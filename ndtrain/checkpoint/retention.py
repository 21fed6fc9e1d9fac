"""Which checkpoints of a run are kept: the newest ones, and never without a sound one among them.

    pruned = prune(run_directory, keep_last=2)
    pruned.deleted, pruned.damaged

Only complete checkpoints count. Before anything is deleted, one of those that stay has been read
back and compared with its hashes; if none of them is sound, everything stays.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.source import CHECKPOINTS, complete_checkpoints
from ndtrain.core.atomic import fsync_folder
from ndtrain.core.errors import UserError
from ndtrain.core.faults import reach


@dataclass(frozen=True, slots=True)
class Pruned:
    deleted: tuple[Path, ...]
    damaged: tuple[Path, ...]  # complete, but with a file that does not have its hash


def prune(
    run_directory: Path,
    keep_last: int,
    remove_partial: bool = False,
    is_sound: Callable[[Path], bool] | None = None,
) -> Pruned:
    """Deletes complete checkpoints beyond the newest keep_last, and what a kill left behind.

    remove_partial: torn saves too; only for who knows that none is being written.
    """
    assert keep_last >= 1
    folder = run_directory / CHECKPOINTS
    leftovers = [*folder.glob("step_*.trash")]
    if remove_partial:
        leftovers += folder.glob("step_*.partial")
    for leftover in leftovers:
        shutil.rmtree(leftover)
    complete = complete_checkpoints(run_directory)
    kept, old = complete[-keep_last:], complete[:-keep_last]
    damaged: list[Path] = []
    if old:
        for path in reversed(kept):  # the newest is usually sound: one is read
            if (is_sound or verifies)(path):
                for obsolete in old:
                    delete(obsolete)
                return Pruned(tuple(old), tuple(damaged))
            damaged.append(path)
    return Pruned((), tuple(damaged))


def delete(checkpoint: Path) -> None:
    """Takes its name away first: a kill meanwhile leaves no torn folder that looks complete."""
    trash = checkpoint.with_name(checkpoint.name + ".trash")
    os.rename(checkpoint, trash)
    fsync_folder(trash.parent)
    reach("prune.renamed")
    shutil.rmtree(trash)
    reach("prune.deleted")


def verifies(checkpoint: Path) -> bool:
    """Whether every file has the hash that the manifest gives."""
    try:
        Checkpoint(checkpoint).verify()
    except (UserError, OSError):
        return False
    return True

"""Finds what a path means: a checkpoint, a run directory or a Hugging Face folder.

source = open_source(Path("runs/small"))       # its newest complete checkpoint
source.shape; source.read(name, dim, slices)
"""

import re
from pathlib import Path

from ndtrain.checkpoint.format import MANIFEST, Manifest
from ndtrain.checkpoint.hugging_face import CONFIG, HuggingFaceFolder
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.core.errors import UserError

CHECKPOINTS = "checkpoints"  # subfolder of a run directory
_STEP = re.compile(r"step_(\d{8})")


def step_folder(run_directory: Path, step: int) -> Path:
    return run_directory / CHECKPOINTS / f"step_{step:08d}"


def step_of(folder: Path, otherwise: int = -1) -> int:
    """The step that the folder's name says; `otherwise` for a name of another form."""
    match = _STEP.fullmatch(folder.name)
    return int(match[1]) if match else otherwise


def step_folders(run_directory: Path) -> list[Path]:
    """What has the name of a checkpoint, complete or not, oldest first."""
    folders = sorted((run_directory / CHECKPOINTS).glob("step_*"))
    return [path for path in folders if _STEP.fullmatch(path.name)]


def complete_checkpoints(run_directory: Path) -> list[Path]:
    """Step folders whose manifest is there and whose files have their sizes, oldest first."""
    folders = []
    for path in step_folders(run_directory):
        try:
            Manifest.load(path)
        except UserError:
            continue  # a torn one does not count; whoever asks for it by name hears why
        folders.append(path)
    return folders


def open_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint folder, or the newest complete one of a run directory."""
    if (folder / CHECKPOINTS).is_dir():
        complete = complete_checkpoints(folder)
        if not complete:
            raise UserError(
                "the run has no complete checkpoint",
                str(folder / CHECKPOINTS),
                "let it train to its end, or set checkpoint.every_steps",
            )
        return Checkpoint(complete[-1])
    if not folder.is_dir():
        raise UserError("no such folder", str(folder), "give a checkpoint or a run directory")
    return Checkpoint(folder)


def open_source(folder: Path) -> Checkpoint | HuggingFaceFolder:
    """Whatever weights the path holds. Raises UserError if there are none."""
    if (folder / MANIFEST).is_file() or (folder / CHECKPOINTS).is_dir():
        return open_checkpoint(folder)
    if (folder / CONFIG).is_file():
        return HuggingFaceFolder(folder)
    raise UserError(
        "no weights there",
        str(folder),
        f"give a checkpoint ({MANIFEST}), a run directory or a Hugging Face folder ({CONFIG})",
    )

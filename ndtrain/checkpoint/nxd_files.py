"""Finds and opens the files of a checkpoint that neuronx-distributed has saved.

    model_folder = find_model_folder(Path("nxd_checkpoints"))     # None: it is something else
    tensors = [open_rank(path) for path in rank_files(model_folder)]
    paths = optimizer_files(model_folder, num_ranks=8)         # see nxd_optimizer.py

Layout: TAG/model/dp_rank_00_tp_rank_XX_pp_rank_XX.pt, TAG/optim beside it, TAG/done once the save
is complete (neuronx-distributed 2.29, trainer/checkpoint.py). The folder of tags, a tag or `model`
may be given; or one with tp_rank_XX_pp_rank_XX/checkpoint.pt (`save` of its
parallel_layers/checkpointing.py).
The files are opened with torch's reader of weights alone, which runs no code, and memory-mapped.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ndtrain.core.errors import UserError

MODEL = "model"
OPTIMIZER = "optim"
DONE = "done"
_FILE = re.compile(r"dp_rank_(\d+)(_ep_rank_\d+)?_tp_rank_(\d+)_pp_rank_(\d+)\.pt")
_FOLDER = re.compile(r"tp_rank_(\d+)_pp_rank_(\d+)")
_IN_FOLDER = "checkpoint.pt"


def file_name(rank: int, part: int = 0) -> str:
    """The name of a tensor rank's file, of data-parallel rank `part` and pipeline rank 0."""
    return f"dp_rank_{part:02d}_tp_rank_{rank:02d}_pp_rank_00.pt"


def find_model_folder(source: Path) -> Path | None:
    """The folder with the ranks' files: `source`, its `model`, or that of its one tag.

    None if there is no such file. Raises UserError for several tags and for a save that was cut.
    """
    if _has_files(source):
        return source
    if _has_files(source / MODEL):
        return _complete(source)
    tags = sorted(path.parent for path in source.glob(f"*/{MODEL}") if _has_files(path))
    if len(tags) > 1:
        names = ", ".join(tag.name for tag in tags)
        raise UserError(f"several checkpoints: {names}", str(source), "give the folder of one")
    return _complete(tags[0]) if tags else None


def rank_files(model_folder: Path) -> list[Path]:
    """The files of all tensor ranks, in the order of ranks. Raises UserError for other layouts."""
    found: dict[int, Path] = {}
    for path in sorted(model_folder.iterdir()):
        if not _is_rank(path):
            continue
        data_rank, tensor_rank = _place(path)
        if data_rank:
            raise UserError(
                f"`{path.name}` is of a further data-parallel rank",
                str(model_folder),
                "neuronx-distributed saves a model from data-parallel rank 0 alone: give that one",
            )
        found[tensor_rank] = path if path.suffix else path / _IN_FOLDER
    missing = sorted(set(range(max(found) + 1)) - found.keys())
    if missing:
        raise UserError(
            f"no file of tensor rank {missing[0]}", str(model_folder), "copy the files of all ranks"
        )
    return [found[rank] for rank in sorted(found)]


def open_rank(path: Path) -> Mapping[str, Tensor]:
    """A rank's tensors by name, memory-mapped.

    Raises UserError for a file that holds more than tensors and containers of them, or is damaged.
    """
    state = open_plain(path)
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]  # as neuronx-distributed's converter accepts it too
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise UserError(
            "not a dictionary of tensors by name",
            str(path),
            "save model.state_dict(), or a dictionary with it as `model`",
        )
    return state


def open_plain(path: Path) -> Any:
    """What torch.save wrote: tensors, numbers, texts and containers of them; memory-mapped.

    Raises UserError for a file that holds more than that, or is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # torch raises its unpickler's errors, RuntimeError, ValueError or EOFError here.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"not a file of tensors alone: {reason}",
            str(path),
            "nothing but tensors is read, for a pickle can run code; save it again with "
            "torch.save(model.state_dict(), path)",
        ) from None


def optimizer_files(model_folder: Path, num_ranks: int) -> list[list[Path]]:
    """For each tensor rank, the files of its data-parallel ranks in order, of the folder `optim`.

    Raises UserError if there are none, if one is missing, and for other layouts.
    """
    folder = model_folder.parent / OPTIMIZER
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.glob("dp_rank_*.pt")):
        if _is_rank(path):
            data_rank, tensor_rank = _place(path)
            found[tensor_rank, data_rank] = path
    if not found:
        raise UserError(
            "no state of an optimizer: no files dp_rank_XX_tp_rank_XX_pp_rank_00.pt",
            str(folder),
            "leave --optimizer out; what use_zero1_dcp=True or --convert_to_full wrote is not read",
        )
    num_parts = 1 + max(data_rank for _, data_rank in found)
    wanted = {(rank, part) for rank in range(num_ranks) for part in range(num_parts)}
    if wrong := sorted(wanted ^ found.keys()):
        raise UserError(
            f"the files are not those of {num_ranks} tensor ranks and {num_parts} data-parallel"
            f" ranks: see tensor rank {wrong[0][0]}, data-parallel rank {wrong[0][1]}",
            str(folder),
            "copy the files of all ranks",
        )
    return [[found[rank, part] for part in range(num_parts)] for rank in range(num_ranks)]


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(_is_rank(path) for path in folder.iterdir())


def _is_rank(path: Path) -> bool:
    """Whether a tensor rank's state is there, in either layout."""
    if _FOLDER.fullmatch(path.name):
        return (path / _IN_FOLDER).is_file()
    return _FILE.fullmatch(path.name) is not None


def _complete(tag: Path) -> Path:
    if not (tag / DONE).is_file():
        raise UserError(
            f"the save was not completed: no file `{DONE}`",
            str(tag),
            f"take another checkpoint; or give {tag / MODEL} if you know that its files are whole",
        )
    return tag / MODEL


def _place(path: Path) -> tuple[int, int]:
    """Data-parallel and tensor rank. Raises UserError for layouts that are not read."""
    folder, file = _FOLDER.fullmatch(path.name), _FILE.fullmatch(path.name)
    if folder is not None:
        data_rank, expert, tensor_rank, pipeline_rank = "0", None, folder[1], folder[2]
    else:
        assert file is not None, "_is_rank(path)"
        data_rank, expert, tensor_rank, pipeline_rank = file.groups()
    _refuse_other_layouts(path, expert is not None, int(pipeline_rank))
    return int(data_rank), int(tensor_rank)


def _refuse_other_layouts(path: Path, has_experts: bool, pipeline_rank: int) -> None:
    where = str(path.parent)
    if has_experts:
        raise UserError(
            f"`{path.name}` is of an expert-parallel model", where, "give one of a dense model"
        )
    if pipeline_rank:
        raise UserError(
            f"`{path.name}` is of a further pipeline stage",
            where,
            "join the stages with neuronx-distributed's checkpoint converter, with --pp_size",
        )
    if path.with_name(path.name + ".tensors").is_dir():
        raise UserError(
            f"`{path.name}` was saved with use_xser=True: its tensors lie in files of their own",
            where,
            "convert it with neuronx-distributed's converter and --convert_from_xser",
        )

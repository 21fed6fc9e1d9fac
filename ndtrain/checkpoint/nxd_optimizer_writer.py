"""Writes AdamW's state as neuronx-distributed's ZeRO-1 optimizer loads it.

    write_optimizer(checkpoint, layout, tag / OPTIMIZER, num_parts=4)     # 4 data-parallel ranks

Its files know parameters by numbers: through the matrices in the order of the modules, then through
the norms, as in the two groups that its examples make. Master weights are always in them. For the
layout of a file see nxd_optimizer.py. Memory for one tensor rank's state is enough.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ndtrain.checkpoint.format import FIRST_MOMENT, MASTER, SECOND_MOMENT
from ndtrain.checkpoint.nxd_files import file_name
from ndtrain.checkpoint.nxd_layout import Layout, in_module_order
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.writer import fsync_file
from ndtrain.core.errors import UserError

_MOMENTS = (FIRST_MOMENT, SECOND_MOMENT)


def write_optimizer(checkpoint: Checkpoint, layout: Layout, folder: Path, num_parts: int) -> None:
    """Raises UserError for a checkpoint that a run cannot go on from."""
    training = checkpoint.training()
    if not checkpoint.state.has(FIRST_MOMENT):
        raise UserError(
            "no update was made yet: there are no moments",
            str(checkpoint.folder),
            "leave --dp out, or take a later checkpoint",
        )
    groups = _groups(layout, training["config"]["optim"])
    num_updates = float(training["num_updates"])
    folder.mkdir()
    for rank in range(layout.num_ranks):
        kinds = {
            kind: dict(enumerate(_rank_tensors(checkpoint, layout, rank, kind)))
            for kind in (MASTER, *_MOMENTS)
        }
        for part in range(num_parts):
            cut = {
                kind: {n: _part(tensor, part, num_parts) for n, tensor in tensors.items()}
                for kind, tensors in kinds.items()
            }
            saved = {
                "state": {},
                "param_groups": groups,
                "base_state": {
                    # A tensor each: one for all would be counted up by every parameter.
                    number: {
                        "step": torch.tensor(num_updates),
                        **{kind: cut[kind][number] for kind in _MOMENTS},
                    }
                    for number in cut[MASTER]
                },
                "shape_info": {n: list(tensor.shape) for n, tensor in kinds[MASTER].items()},
                "sharded_master_weights": cut[MASTER],
            }
            path = folder / file_name(rank, part)
            torch.save(saved, path)
            fsync_file(path)


def _groups(layout: Layout, optim: dict[str, Any]) -> list[dict[str, Any]]:
    """What loading puts in the place of the optimizer's own: hyperparameters and numbers."""
    sizes = [len(names) for names in _names(layout)]
    numbers = list(range(sum(sizes)))
    groups = []
    for decay, held in ((optim["weight_decay"], numbers[: sizes[0]]), (0.0, numbers[sizes[0] :])):
        adamw = torch.optim.AdamW(
            [torch.zeros(1)],
            lr=optim["lr"],
            betas=tuple(optim["betas"]),
            eps=optim["eps"],
            weight_decay=decay,
        )
        (group,) = adamw.state_dict()["param_groups"]
        # The first for its schedules, the other for its AdamW_FP32OptimParams.
        groups.append({**group, "initial_lr": optim["lr"], "correct_bias": True, "params": held})
    return groups


def _names(layout: Layout) -> tuple[list[str], list[str]]:
    """Matrices and norms."""
    names = in_module_order(layout.shape)
    is_norm = [name.endswith("norm.weight") for name in names]
    return (
        [name for name, norm in zip(names, is_norm, strict=True) if not norm],
        [name for name, norm in zip(names, is_norm, strict=True) if norm],
    )


def _rank_tensors(checkpoint: Checkpoint, layout: Layout, rank: int, kind: str) -> Iterator[Tensor]:
    state = checkpoint.state
    for name in (name for names in _names(layout) for name in names):
        for part in layout.parts(name, rank):
            if state.has(kind):
                yield state.read(kind, name, part.dim, part.slices).float()
            else:  # the weights are in full precision themselves
                yield checkpoint.read(name, part.dim, part.slices).float()


def _part(tensor: Tensor, part: int, num_parts: int) -> Tensor:
    """A data-parallel rank's rows; zeros make their numbers equal."""
    missing = -len(tensor) % num_parts
    padded = F.pad(tensor, [0, 0] * (tensor.dim() - 1) + [0, missing])
    return padded.chunk(num_parts)[part].clone()  # or the file would hold them all

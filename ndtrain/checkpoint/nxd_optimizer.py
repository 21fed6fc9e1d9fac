"""Reads AdamW's state that neuronx-distributed has saved, under our names.

    optimizer = NxdOptimizer(NxdFolder(model_folder))
    optimizer.num_updates
    for piece, tensor in optimizer.pieces(): ...        # fp32 moments, and master weights if saved

Layout (neuronx-distributed 2.29, trainer/checkpoint.py; torch-xla 2.9,
zero_redundancy_optimizer.py): TAG/optim/dp_rank_XX_tp_rank_XX_pp_rank_00.pt. ZeRO-1 has a file for
each data-parallel rank; `base_state` holds its rows of each tensor of its tensor rank, padded to
equal numbers, and `shape_info` the shapes before that. Without ZeRO there is one file, with whole
tensors in `state`. Parameters have numbers there, no names: they count through the groups.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ndtrain.checkpoint.format import FIRST_MOMENT, MASTER, SECOND_MOMENT, Piece
from ndtrain.checkpoint.nxd import NxdFolder
from ndtrain.checkpoint.nxd_files import open_plain, optimizer_files
from ndtrain.core.errors import UserError

_MOMENTS = (FIRST_MOMENT, SECOND_MOMENT)  # AdamW's names of them are ours
_STEP = "step"
_FRESH = "start from the weights alone: leave --optimizer out"


class NxdOptimizer:
    """The state of all ranks, memory-mapped. Raises UserError for what is not AdamW's."""

    def __init__(self, folder: NxdFolder) -> None:
        self._folder = folder
        self._paths = optimizer_files(folder.model_folder, folder.num_ranks)
        self._ranks = [[_open(path) for path in paths] for paths in self._paths]
        self._numbers = self._find_numbers()
        for rank, paths in enumerate(self._paths):
            for part, path in enumerate(paths):
                self._check(rank, part, path)
        self.num_updates = self._num_updates()

    @property
    def has_master(self) -> bool:
        return all(MASTER in part for parts in self._ranks for part in parts)

    def pieces(self) -> Iterator[tuple[Piece, Tensor]]:
        """Every parameter's state whole, one at a time."""
        for kind in (MASTER, *_MOMENTS) if self.has_master else _MOMENTS:
            for name, shape in self._folder.shapes.items():
                tensor = self._read(kind, name)
                if not torch.isfinite(tensor).all():
                    raise UserError(
                        f"{kind} of `{name}` has values that are not finite",
                        str(self._paths[0][0].parent),
                        "take an earlier checkpoint",
                    )
                if kind == MASTER:
                    self._check_master(name, tensor)
                yield Piece(name, 0, ((0, shape[0]),), kind, (0, prod(shape))), tensor.flatten()

    def _read(self, kind: str, name: str) -> Tensor:
        def of_rank(rank: int, key: str) -> Tensor:
            number, rows = self._numbers[key], self._folder.tensor(rank, key).shape[0]
            parts = [part[kind][number] for part in self._ranks[rank]]
            return torch.cat(parts)[:rows].float()

        return self._folder.assemble(name, of_rank)

    def _find_numbers(self) -> dict[str, int]:
        """Names of the model's tensors -> their numbers in the state.

        Groups hold all tensors, or the matrices and the norms: so the examples of
        neuronx-distributed make them, and so it follows from the model which is which.
        """
        keys = self._folder.trained_keys()
        dims = {key: self._folder.tensor(0, key).dim() for key in keys}
        groups = self._ranks[0][0]["groups"]
        choices: list[list[str]] = [
            keys,
            [key for key in keys if dims[key] > 1],
            [key for key in keys if dims[key] == 1],
        ]
        numbers: dict[str, int] = {}
        for group in groups:
            fitting = [names for names in choices if self._fits(names, group)]
            if fitting:
                numbers.update(zip(fitting[0], group, strict=True))
        if numbers.keys() != set(keys) or len(numbers) != sum(map(len, groups)):
            raise UserError(
                f"groups of {', '.join(str(len(group)) for group in groups)} parameters: which is"
                " which cannot be told",
                str(self._paths[0][0]),
                f"known are groups of all parameters, or of matrices and of norms; else {_FRESH}",
            )
        return numbers

    def _fits(self, keys: list[str], group: list[int]) -> bool:
        shapes = self._ranks[0][0]["shapes"]
        return len(keys) == len(group) and all(
            list(self._folder.tensor(0, key).shape) == shapes.get(number)
            for key, number in zip(keys, group, strict=True)
        )

    def _check(self, rank: int, part: int, path: Path) -> None:
        saved, first = self._ranks[rank][part], self._ranks[0][0]
        num_parts = len(self._ranks[rank])
        fits = saved["groups"] == first["groups"] and (MASTER in saved) == self.has_master
        for key, number in self._numbers.items():
            full = self._folder.tensor(rank, key).shape
            expected = [-(-full[0] // num_parts), *full[1:]]
            for kind in (MASTER, *_MOMENTS) if MASTER in saved else _MOMENTS:
                held = saved[kind].get(number)
                fits = fits and held is not None and list(held.shape) == expected
        if not fits:
            raise UserError(
                f"not this rank's part of the model's state, cut among {num_parts}",
                str(path),
                "copy the files of all ranks, of one save; of context parallelism they are not"
                f" complete: {_FRESH}",
            )

    def _num_updates(self) -> int:
        steps = {step for parts in self._ranks for part in parts for step in part[_STEP]}
        if len(steps) != 1:
            raise UserError(
                f"the parameters have seen different numbers of updates: {sorted(steps)}",
                str(self._paths[0][0].parent),
                _FRESH,
            )
        return steps.pop()

    def _check_master(self, name: str, master: Tensor) -> None:
        """That they are these weights' in full precision: one step of rounding apart at most."""
        weight = self._folder.read_whole(name)
        limits = torch.finfo(weight.dtype)
        if not torch.allclose(weight.float(), master, rtol=2 * limits.eps, atol=limits.tiny):
            raise UserError(
                f"the master weights of `{name}` are not its weights",
                str(self._paths[0][0].parent),
                "the parameters are in another order than in the model, or the files are of two"
                f" saves; {_FRESH}",
            )


def _open(path: Path) -> dict[str, Any]:
    """Of one file: groups of numbers, shapes, tensors of each kind, and the numbers of updates."""
    saved = open_plain(path)
    try:
        groups = [list(group["params"]) for group in saved["param_groups"]]
        state = saved["base_state"] if "base_state" in saved else saved["state"]
        kinds = {kind: {n: one[kind] for n, one in state.items()} for kind in _MOMENTS}
        if not kinds[FIRST_MOMENT] or any(len(one) != 3 for one in state.values()):
            raise KeyError("state of AdamW alone")
        shapes = saved.get("shape_info") or {
            number: value.shape for number, value in kinds[FIRST_MOMENT].items()
        }
        steps = {int(one[_STEP]) for one in state.values()}
        master = saved.get("sharded_master_weights")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"not AdamW's state as neuronx-distributed saves it: no {error}", str(path), _FRESH
        ) from None
    return {
        "groups": groups,
        "shapes": {number: list(size) for number, size in shapes.items()},
        _STEP: steps,
        **kinds,
        **({MASTER: master} if master else {}),
    }

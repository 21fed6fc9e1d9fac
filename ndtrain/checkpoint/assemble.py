"""Reads part of a parameter from the pieces of it that lie in safetensors files.

    files = SafetensorsFiles(check)
    stored = [Stored(path, "model.q_proj", 0, ((0, 64),)), Stored(path, "model.k_proj", 0, ...)]
    assemble(files, stored, full_shape, dim=0, slices=[(0, 32), (64, 80)])

Only the bytes asked for are read. The result is new memory, in the stored dtype.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ndtrain.checkpoint.format import Bounds
from ndtrain.core.errors import UserError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """Slices along `dim` of a parameter, one after the other: tensor `key` of a file."""

    path: Path
    key: str
    dim: int
    slices: Bounds


class SafetensorsFiles:
    """Open safetensors files by path, memory-mapped. `check(path)` runs before the first read."""

    def __init__(self, check: Callable[[Path], None] = lambda path: None) -> None:
        self._check = check
        self._open: dict[Path, Any] = {}

    def open(self, path: Path) -> Any:
        """Raises UserError, naming the file, if it is not there or not a whole safetensors file."""
        if path not in self._open:
            self._check(path)
            try:
                self._open[path] = safe_open(path, framework="pt")
            except FileNotFoundError:
                raise UserError("a file is missing", str(path), "restore or download it") from None
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"not a whole safetensors file: {error}", str(path), "restore or download it"
                ) from None
        return self._open[path]


def assemble(
    files: SafetensorsFiles,
    stored: Sequence[Stored],
    full_shape: Sequence[int],
    dim: int | None,
    slices: Sequence[tuple[int, int]] | None,
) -> Tensor:
    """The full parameter, or its `slices` along `dim` one after the other.

    `stored` covers the parameter without overlap. Raises UserError if a stored tensor has another
    shape or dtype than it should.
    """
    assert (dim is None) == (slices is None)
    wanted = _whole(full_shape)
    if dim is not None and slices is not None:
        assert all(0 <= a <= b <= full_shape[dim] for a, b in slices), (full_shape, dim, slices)
        wanted[dim] = slices
    parts = []
    for piece in stored:
        common = [_common(w, h) for w, h in zip(wanted, _held(piece, full_shape), strict=True)]
        if all(common):
            parts.append((piece, common))
    # Files without a part are left alone: a rank opens, and verifies, only what it reads.
    dtype = check_headers(files, [piece for piece, _ in parts] or stored[:1], full_shape)
    result = torch.empty([_total(bounds) for bounds in wanted], dtype=dtype)
    for piece, common in parts:
        source = files.open(piece.path).get_slice(piece.key)
        for blocks in product(*common):
            there = tuple(block[0] for block in blocks)
            here = tuple(block[1] for block in blocks)
            result[there] = source[here]
    return result


def check_headers(
    files: SafetensorsFiles, stored: Sequence[Stored], full_shape: Sequence[int]
) -> torch.dtype:
    """The dtype that the pieces have in common. Raises UserError as `assemble` does."""
    dtypes = [_checked_dtype(files, piece, full_shape) for piece in stored]
    for piece, dtype in zip(stored, dtypes, strict=True):
        if dtype != dtypes[0]:
            raise UserError(
                f"`{piece.key}` is {dtype}, other parts of the same matrix are {dtypes[0]}",
                str(piece.path),
                "convert the weights to one dtype",
            )
    return dtypes[0]


def _checked_dtype(
    files: SafetensorsFiles, piece: Stored, full_shape: Sequence[int]
) -> torch.dtype:
    try:
        source = files.open(piece.path).get_slice(piece.key)
    except SafetensorError:
        raise UserError(f"`{piece.key}` is missing", str(piece.path), "restore the file") from None
    expected = [_total(bounds) for bounds in _held(piece, full_shape)]
    if source.get_shape() != expected:
        raise UserError(
            f"`{piece.key}` has shape {source.get_shape()}, expected {expected}",
            str(piece.path),
            "the weights belong to another configuration",
        )
    name = source.get_dtype()
    if name not in DTYPES:
        raise UserError(
            f"`{piece.key}` is {name}: such weights are not supported",
            str(piece.path),
            f"legal here: {', '.join(DTYPES)}",
        )
    return DTYPES[name]


def _whole(full_shape: Sequence[int]) -> list[Sequence[tuple[int, int]]]:
    return [[(0, size)] for size in full_shape]


def _held(piece: Stored, full_shape: Sequence[int]) -> list[Sequence[tuple[int, int]]]:
    held = _whole(full_shape)
    held[piece.dim] = piece.slices
    return held


def _total(bounds: Sequence[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in bounds)


def _common(
    wanted: Sequence[tuple[int, int]], held: Sequence[tuple[int, int]]
) -> list[tuple[slice, slice]]:
    """What two lists of ranges share, as (position in wanted, position in held)."""
    shared = []
    there = 0
    for wanted_start, wanted_stop in wanted:
        here = 0
        for held_start, held_stop in held:
            start, stop = max(wanted_start, held_start), min(wanted_stop, held_stop)
            if start < stop:
                first = there + start - wanted_start
                source = here + start - held_start
                size = stop - start
                shared.append((slice(first, first + size), slice(source, source + size)))
            here += held_stop - held_start
        there += wanted_stop - wanted_start
    return shared

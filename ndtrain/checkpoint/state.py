"""Master weights and moments of a checkpoint, from the ranges in which any layout wrote them.

    state = checkpoint.state
    if state.has(FIRST_MOMENT):
        state.read_flat(FIRST_MOMENT, "layers.0.mlp.down.weight", 1, (0, 64), 100, 200)
    state.read(MASTER, "embedding.weight", 0, [(0, 48)])

Written were, of slices of a parameter, ranges of their elements row by row. A reader with the same
slices gets its elements from the ranges alone; another one pays for whole slices.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ndtrain.checkpoint.assemble import DTYPES, SafetensorsFiles
from ndtrain.checkpoint.format import Piece
from ndtrain.core.errors import UserError

Bounds = tuple[int, int]


@dataclass
class _Parameter:
    """One kind of state of one parameter: which file has which elements of which slice."""

    dim: int
    ranges: dict[Bounds, list[tuple[Bounds, Path, str]]] = field(default_factory=dict)


class OptimizerState:
    """All kinds of state that the pieces hold. Raises `damaged(what)` if they leave gaps."""

    def __init__(
        self,
        files: SafetensorsFiles,
        pieces: Iterable[tuple[Path, Piece]],
        shapes: Mapping[str, Sequence[int]],
        damaged: Callable[[str], UserError],
    ) -> None:
        self._files = files
        self._shapes = shapes
        self._damaged = damaged
        self._stored: dict[str, dict[str, _Parameter]] = {}
        for path, piece in pieces:
            self._add(path, piece)
        for kind, parameters in self._stored.items():
            if missing := shapes.keys() - parameters.keys():
                raise damaged(f"{kind} of {', '.join(sorted(missing))}: missing")
            for name, parameter in parameters.items():
                self._check(kind, name, parameter)

    def has(self, kind: str) -> bool:
        return kind in self._stored

    def read_flat(
        self, kind: str, name: str, dim: int, bounds: Bounds, start: int, stop: int
    ) -> Tensor:
        """Elements [start, stop), row by row, of the slice `bounds` of the parameter along dim."""
        parameter = self._stored[kind][name]
        if dim == parameter.dim and bounds in parameter.ranges:
            return self._range(kind, name, bounds, start, stop)
        return self.read(kind, name, dim, [bounds]).reshape(-1)[start:stop]

    def read(self, kind: str, name: str, dim: int, slices: Sequence[Bounds]) -> Tensor:
        """The slices along dim, one after the other."""
        parameter = self._stored[kind][name]
        if dim != parameter.dim:
            whole = self.read(kind, name, parameter.dim, [(0, self._shapes[name][parameter.dim])])
            return torch.cat([whole.narrow(dim, a, b - a) for a, b in slices], dim)
        parts = []
        for start, stop in slices:
            for held in sorted(parameter.ranges):
                low, high = max(start, held[0]), min(stop, held[1])
                if low < high:
                    part = self._slice(kind, name, held)
                    parts.append(part.narrow(dim, low - held[0], high - low))
        return torch.cat(parts, dim)

    def _slice(self, kind: str, name: str, bounds: Bounds) -> Tensor:
        shape = self._slice_shape(name, self._stored[kind][name].dim, bounds)
        return self._range(kind, name, bounds, 0, prod(shape)).view(shape)

    def _range(self, kind: str, name: str, bounds: Bounds, start: int, stop: int) -> Tensor:
        parts = []
        for (first, last), path, key in sorted(self._stored[kind][name].ranges[bounds]):
            low, high = max(start, first), min(stop, last)
            if low < high:
                stored = self._files.open(path).get_slice(key)
                if stored.get_shape() != [last - first] or stored.get_dtype() not in DTYPES:
                    raise self._damaged(f"`{key}` in {path.name} is not what the manifest says")
                parts.append(stored[low - first : high - first])
        return torch.cat(parts)

    def _slice_shape(self, name: str, dim: int, bounds: Bounds) -> list[int]:
        shape = list(self._shapes[name])
        shape[dim] = bounds[1] - bounds[0]
        return shape

    def _add(self, path: Path, piece: Piece) -> None:
        assert piece.flat is not None, "Piece.from_json refuses it"
        if piece.name not in self._shapes:
            raise self._damaged(f"{piece.kind} of {piece.name}: not of this shape")
        parameters = self._stored.setdefault(piece.kind, {})
        parameter = parameters.setdefault(piece.name, _Parameter(piece.dim))
        if piece.dim != parameter.dim or not 0 <= piece.dim < len(self._shapes[piece.name]):
            raise self._damaged(f"the pieces of {piece.kind} of `{piece.name}` cut several dims")
        ranges = parameter.ranges.setdefault(piece.slices[0], [])
        ranges.append((piece.flat, path, piece.key))

    def _check(self, kind: str, name: str, parameter: _Parameter) -> None:
        covers = _covers(parameter.ranges, self._shapes[name][parameter.dim]) and all(
            _covers(
                [bounds for bounds, _, _ in ranges],
                prod(self._slice_shape(name, parameter.dim, held)),
            )
            for held, ranges in parameter.ranges.items()
        )
        if not covers:
            raise self._damaged(f"the pieces of {kind} of `{name}` overlap or leave gaps")


def _covers(ranges: Iterable[Bounds], size: int) -> bool:
    """Whether the ranges, put in order, are [0, size) without overlap or gap."""
    ordered = sorted(ranges)
    edges = [0, *[stop for _, stop in ordered]]
    return edges == [*[start for start, _ in ordered], size]

"""Initial weights that do not depend on the layout: the same number for the same element.

Each parameter is cut into blocks of rows; a block's values come from a generator seeded by (seed,
parameter, block). A rank makes only the blocks it needs, so no rank ever holds a full matrix of a
large model because of its initialisation (row-parallel weights excepted, one at a time).
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ndtrain.models.qwen3.hugging_face import parameter_shapes
from ndtrain.models.qwen3.shape import Shape

BLOCK_ELEMENTS = 2**20  # changing it changes every initial weight


class RandomWeights:
    """Norms are ones; every matrix is normal with `shape.initial_std`, as Qwen3 initialises."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self._shapes = parameter_shapes(shape)
        self._std = shape.initial_std
        self._seed = seed

    def read(self, name: str, dim: int, slices: Sequence[tuple[int, int]]) -> Tensor:
        """The slices along dim of the full parameter, one after the other, in fp32."""
        full_shape = self._shapes[name]
        if len(full_shape) == 1:
            return torch.ones(sum(stop - start for start, stop in slices))
        if dim == 0:
            return torch.cat([self._rows(name, start, stop) for start, stop in slices])
        full = self._rows(name, 0, full_shape[0])
        return torch.cat([full[:, start:stop] for start, stop in slices], dim=1)

    def _rows(self, name: str, start: int, stop: int) -> Tensor:
        num_rows, num_columns = self._shapes[name]
        per_block = max(1, BLOCK_ELEMENTS // num_columns)
        rows = torch.empty(stop - start, num_columns)
        for block in range(start // per_block, -(-stop // per_block)):
            first = block * per_block
            size = min(per_block, num_rows - first)
            values = torch.empty(size, num_columns).normal_(
                std=self._std, generator=self._generator(name, block)
            )
            low, high = max(start, first), min(stop, first + size)
            rows[low - start : high - start] = values[low - first : high - first]
        return rows

    def _generator(self, name: str, block: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self._seed}/{name}/{block}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

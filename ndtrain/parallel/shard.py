"""Which part of a full parameter a tensor rank holds.

    shard = Shard(0, (Slice(0, 128), Slice(256, 320)))
    local = shard.take(full)          # the slices, one below the other

Every other question about layout is answered from here: initial values, checkpoints, gradient
norms (how many ranks hold a copy) and which gradients have to be summed over copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Slice:
    start: int
    stop: int
    num_replicas: int = 1  # tensor ranks that hold this slice

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Shard:
    dim: int  # that the slices cut
    slices: tuple[Slice, ...]

    @classmethod
    def replicated(cls, size: int, num_ranks: int) -> "Shard":
        """Held whole by each of num_ranks; size: of dim 0."""
        return cls(0, (Slice(0, size, num_ranks),))

    def bounds(self) -> list[tuple[int, int]]:
        return [(part.start, part.stop) for part in self.slices]

    def take(self, full: Tensor) -> Tensor:
        parts = [full.narrow(self.dim, part.start, part.size) for part in self.slices]
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.dim)

    def local_shape(self, full_shape: Sequence[int]) -> list[int]:
        shape = list(full_shape)
        shape[self.dim] = sum(part.size for part in self.slices)
        return shape


def even_slice(size: int, num_ranks: int, rank: int, offset: int = 0) -> Slice:
    """Part `rank` of num_ranks equal parts of `size` rows that begin at row `offset`."""
    assert size % num_ranks == 0, "config/checks.py refuses such a layout"
    part = size // num_ranks
    return Slice(offset + rank * part, offset + (rank + 1) * part)


def heads_slice(num_heads: int, head_dim: int, num_ranks: int, rank: int, offset: int) -> Slice:
    """The rows of this rank's heads; with more ranks than heads, neighbours share a head."""
    if num_heads >= num_ranks:
        return even_slice(num_heads * head_dim, num_ranks, rank, offset)
    num_replicas = num_ranks // num_heads
    start = offset + rank // num_replicas * head_dim
    return Slice(start, start + head_dim, num_replicas)

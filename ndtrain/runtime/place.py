"""A rank's place on an axis, as compute indexes with it.

    place = runtime.place(mesh.tensor)
    chunk = place.rows(x, place.rank, place.size)   # own chunk of the rows
    full = place.join(chunks)                       # chunks in rank order, below each other
    row = place.from_first(tokens, num_rows)        # 0 is the first row that this rank holds

On the host a place is a number. In a traced graph (`TracedPlace`) it is data, which every rank
uploads for itself: a number would be a constant, each rank's graph another one, and a compiler
would work as often as there are ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    rank: int
    size: int

    @property
    def is_data(self) -> bool:
        """Whether a graph that indexes with it is the same on all ranks."""
        return False

    def rows(self, x: Tensor, index: int, count: int) -> Tensor:
        """Chunk `index` of `count` equal chunks of the rows of x: a view."""
        size = x.shape[0] // count
        return x.narrow(0, index * size, size)

    def join(self, chunks: Sequence[Tensor]) -> Tensor:
        """Equal chunks below each other; the first ones are of rank 0."""
        return torch.cat(list(chunks))

    def from_first(self, row: Tensor, num_rows: int) -> Tensor:
        """Rows of the whole, counted from the first of the num_rows that this rank holds."""
        return row - self.rank * num_rows


ALONE = Place(0, 1)


@dataclass(frozen=True, eq=False)
class TracedPlace(Place):
    """Chunks are told apart by how many ranks ahead of this one their owner is.

    That is the same on all ranks; whose chunk it is stands in `ahead`. A chunk is then copied by a
    gather along the leading dim, the form in which an embedding looks up its rows, and is no view.

    ahead [size], int32: the ranks from this one on, around the axis. back [size], int32: where each
    rank stands in `ahead`.
    """

    ahead: Tensor
    back: Tensor

    # Of one runtime, as its tensors are. (What is inherited would compare the ranks alone.)
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @classmethod
    def on(cls, device: torch.device, rank: int, size: int) -> "TracedPlace":
        """Vectors, not scalars: of those torch-xla makes constants if they are 0 or 1."""
        ahead = (torch.arange(size, dtype=torch.int32) + rank) % size
        return cls(rank, size, ahead.to(device), ahead.argsort().to(torch.int32).to(device))

    @property
    def is_data(self) -> bool:
        return True

    def rows(self, x: Tensor, index: int, count: int) -> Tensor:
        of_each = count // self.size
        owner, part = divmod(index, of_each)
        chunk = self.ahead.narrow(0, (owner - self.rank) % self.size, 1) * of_each + part
        return x.unflatten(0, (count, -1)).index_select(0, chunk).squeeze(0)

    def join(self, chunks: Sequence[Tensor]) -> Tensor:
        own = self.rank * (len(chunks) // self.size)
        joined = torch.cat([*chunks[own:], *chunks[:own]])
        return joined.unflatten(0, (self.size, -1)).index_select(0, self.back).flatten(0, 1)

    def from_first(self, row: Tensor, num_rows: int) -> Tensor:
        return row - self.ahead.narrow(0, 0, 1) * num_rows

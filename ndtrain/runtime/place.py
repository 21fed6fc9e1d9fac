"""A rank's place on an axis, as compute indexes with it.

    place = runtime.place(mesh.tensor)
    row = place.from_first(tokens, num_rows)        # 0 is the first row that this rank holds

On the host a place is a number. In a traced graph (`TracedPlace`) it is data, which every rank
uploads for itself: a number would be a constant, each rank's graph another one, and a compiler
would work as often as there are ranks. Such a graph counts ranks from its own on.

    turned = place.turn(x)                          # own chunk of the rows first
    x = place.turn_back(turned)                     # in rank order
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    rank: int
    size: int

    @property
    def is_data(self) -> bool:
        """Whether what is computed with it has no trace of the rank."""
        return False

    @property
    def counted(self) -> int:
        """The own rank, as chunks of rows are counted."""
        return self.rank

    def from_first(self, row: Tensor, num_rows: int) -> Tensor:
        """Rows of the whole, counted from the first of the num_rows that this rank holds."""
        return row - self.rank * num_rows


@dataclass(frozen=True, eq=False)
class TracedPlace(Place):
    """ahead [size], int32: the ranks from this one on, around the axis. back [size], int32: where
    each rank stands in `ahead`.

    Turning is a gather along the leading dim, the form in which an embedding looks up its rows.
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

    @property
    def counted(self) -> int:
        return 0

    def from_first(self, row: Tensor, num_rows: int) -> Tensor:
        return row - self.ahead.narrow(0, 0, 1) * num_rows

    def turn(self, x: Tensor) -> Tensor:
        """Equal chunks of rows, one a rank, in rank order -> own chunk first; a copy."""
        return x.unflatten(0, (self.size, -1)).index_select(0, self.ahead).flatten(0, 1)

    def turn_back(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.size, -1)).index_select(0, self.back).flatten(0, 1)

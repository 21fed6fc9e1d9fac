"""The compute of schedules: small functions of tensors that know their cost.

An operation is called with tensors and returns a new one; given `out` it writes there instead,
which is how the buffers of joined values are assigned. What it may write over, it says. It works on
CPU, meta and XLA tensors alike.

Rows are the first dim (the sequence); t the ranks of the axis.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ndtrain.ops.norm import wide
from ndtrain.runtime.place import TracedPlace


class Operation(Protocol):
    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Placeable(Protocol):
    """An operation that can write its result to a given place, and knows how large it is."""

    def shape(self, *tensors: Tensor) -> tuple[int, ...]: ...


@runtime_checkable
class Overwriting(Protocol):
    """An operation whose value may lie in the memory of its input number `overwrites`.

    Nobody may read that input at the same time or later (`verify.py`).
    """

    overwrites: int


def _flat(x: Tensor) -> Tensor:
    return x.flatten(0, -2)


@dataclass(frozen=True)
class Linear:
    """x [S, B, in], weight [out, in] -> x weight^T [S, B, out]."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        x, weight = tensors
        if out is None:
            return F.linear(x, weight)
        torch.mm(_flat(x), weight.t(), out=_flat(out))
        return out

    def shape(self, *tensors: Tensor) -> tuple[int, ...]:
        x, weight = tensors
        return (*x.shape[:-1], weight.shape[0])


@dataclass(frozen=True)
class InputGradient:
    """dy [S, B, out], weight [out, in] -> dy weight [S, B, in]."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        dy, weight = tensors
        if out is None:
            return dy @ weight
        torch.mm(_flat(dy), weight, out=_flat(out))
        return out

    def shape(self, *tensors: Tensor) -> tuple[int, ...]:
        dy, weight = tensors
        return (*dy.shape[:-1], weight.shape[1])


@dataclass(frozen=True)
class WeightGradient:
    """dy [S, B, out], x [S, B, in] -> dy^T x [out, in]: one product over all rows."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        dy, x = tensors
        assert out is None, "a weight gradient is never part of a joined value"
        return _flat(dy).t() @ _flat(x)


@dataclass(frozen=True)
class Same:
    """Its input as it is: for a node that makes whoever reads it wait for more."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        (x,) = tensors
        assert out is None, "it has no buffer of its own"
        return x


@dataclass(frozen=True)
class Rows:
    """Chunk `index` of `count` equal chunks of the rows: a view."""

    index: int
    count: int

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        (x,) = tensors
        assert out is None, "a view has no buffer of its own"
        size = x.shape[0] // self.count
        return x.narrow(0, self.index * size, size)


@dataclass(frozen=True)
class StridedRows:
    """Sub-chunk `index` of `count` of each rank's block of rows, the blocks below each other."""

    num_ranks: int
    index: int
    count: int

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        (x,) = tensors
        blocks = x.unflatten(0, (self.num_ranks, self.count, -1))[:, self.index]
        rows = blocks.flatten(0, 1)
        return rows if out is None else out.copy_(rows)


@dataclass(frozen=True)
class Join:
    """Values of equal shape below each other: input i becomes block order[i].

    The executor lets the inputs be written in place where it can.
    """

    order: tuple[int, ...]

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        assert out is None, "joined values are not joined again"
        blocks = [tensors[self.order.index(block)] for block in range(len(tensors))]
        return torch.cat(blocks)


@dataclass(frozen=True)
class Turn:
    """[S, ...] in rank order -> the own rows first, then the next rank's, around the axis."""

    place: TracedPlace

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        (x,) = tensors
        assert out is None, "a turned value is read in parts"
        return self.place.turn(x)


@dataclass(frozen=True)
class TurnBack:
    """Undoes Turn: rank order again."""

    place: TracedPlace

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        (x,) = tensors
        assert out is None, "what is joined is not joined again"
        return self.place.turn_back(x)


@dataclass(frozen=True)
class JoinStrided:
    """Undoes StridedRows: part i holds sub-chunk i of each rank's block."""

    num_ranks: int

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        assert out is None, "joined values are not joined again"
        blocks = [part.unflatten(0, (self.num_ranks, -1)) for part in tensors]
        return torch.stack(blocks, dim=1).flatten(0, 2)


@dataclass(frozen=True)
class Widen:
    """To the dtype in which partial sums travel: fp32 (fp64 for fp64)."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        (x,) = tensors
        return x.to(wide(x.dtype)) if out is None else out.copy_(x)


@dataclass(frozen=True)
class AddPartial:
    """The running sum from the neighbour, then this rank's part: the ring's fixed order."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        running, part = tensors
        return torch.add(running, part, out=out)


@dataclass(frozen=True)
class Narrow:
    """A finished sum back to the dtype of the first input."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        like, total = tensors
        return total.to(like.dtype) if out is None else out.copy_(total)

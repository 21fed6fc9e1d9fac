"""What a backend has to offer to `Collectives`: four operations on contiguous tensors."""

from typing import Protocol

from torch import Tensor

from ndtrain.ops.norm import wide
from ndtrain.runtime.mesh import Axis


class Transport(Protocol):
    def all_gather(self, x: Tensor, axis: Axis, out: Tensor | None) -> Tensor:
        """[n, ...] of each rank -> [size * n, ...] in rank order, the same bits everywhere.

        out: contiguous memory for the result, in which x may already lie at its place.
        """
        ...

    def reduce_scatter(self, x: Tensor, axis: Axis) -> Tensor:
        """[size * n, ...] of each rank -> [n, ...]: own slice of the sum, in the dtype of x.

        Summed in rank order in fp32 (fp64 for fp64) and rounded once.
        """
        ...

    def permute(self, x: Tensor, axis: Axis, shift: int, out: Tensor) -> None:
        """Sends x to rank + shift and receives into `out`, contiguous like x, from rank - shift."""
        ...

    def broadcast(self, x: Tensor, axis: Axis) -> None:
        """Overwrites x by the first rank's."""
        ...


def sum_in_order(parts: list[Tensor]) -> Tensor:
    """The sum from the first part to the last in fp32 (fp64 for fp64), rounded once."""
    total = parts[0].to(wide(parts[0].dtype), copy=True)
    for part in parts[1:]:
        total += part
    return total.to(parts[0].dtype)

"""The transport between processes on CPUs: direct exchanges over gloo's send and receive.

gloo's own reduce-scatter is an all-reduce and a slice (twice the bytes) and sums in an order that
depends on the rank. Here every rank sends each peer the peer's part and adds what it receives in
rank order, so a sum has the same bits on whichever rank it is made.
"""

import itertools

import torch
import torch.distributed as dist
from torch import Tensor

from ndtrain.runtime.mesh import Axis
from ndtrain.runtime.transport import sum_in_order


class GlooTransport:
    def __init__(self, lane: str) -> None:
        """lane: whose process groups it uses (`mesh.LANES`); one thread at a time may use them."""
        self._lane = lane
        # Matched by order on both sides; the tag only guards against a mismatch of that order.
        self._tags = itertools.count()

    def all_gather(self, x: Tensor, axis: Axis, out: Tensor | None) -> Tensor:
        gathered = x.new_empty((axis.size * x.shape[0], *x.shape[1:])) if out is None else out
        parts = list(gathered.unflatten(0, (axis.size, x.shape[0])).unbind(0))
        own = parts[axis.rank]
        if own.data_ptr() != x.data_ptr():
            own.copy_(x)
        self._exchange([own] * axis.size, parts, axis)
        return gathered

    def reduce_scatter(self, x: Tensor, axis: Axis) -> Tensor:
        mine = list(x.unflatten(0, (axis.size, -1)).unbind(0))
        received = [
            mine[peer] if peer == axis.rank else torch.empty_like(mine[peer])
            for peer in range(axis.size)
        ]
        self._exchange(mine, received, axis)
        return sum_in_order(received)

    def broadcast(self, x: Tensor, axis: Axis) -> None:
        dist.broadcast(as_bytes(x), src=axis.ranks[0], group=axis.groups[self._lane])

    def permute(self, x: Tensor, axis: Axis, shift: int, out: Tensor) -> None:
        source = (axis.rank - shift) % axis.size
        target = (axis.rank + shift) % axis.size
        tag = next(self._tags) % 2**20
        pending = [self._irecv(out, axis, source, tag), self._isend(x, axis, target, tag)]
        for work in pending:
            work.wait()

    def _exchange(self, sends: list[Tensor], receives: list[Tensor], axis: Axis) -> None:
        """Sends sends[p] to p and receives receives[p] from p, for every other rank p."""
        tag = next(self._tags) % 2**20
        pending = []
        # Each rank starts with its next neighbour: nobody is everybody's first target.
        for step in range(1, axis.size):
            source = (axis.rank - step) % axis.size
            target = (axis.rank + step) % axis.size
            pending.append(self._irecv(receives[source], axis, source, tag))
            pending.append(self._isend(sends[target], axis, target, tag))
        for work in pending:
            work.wait()

    def _isend(self, x: Tensor, axis: Axis, peer: int, tag: int) -> dist.Work:
        work = dist.isend(as_bytes(x), axis.ranks[peer], axis.groups[self._lane], tag)
        assert work is not None
        return work

    def _irecv(self, x: Tensor, axis: Axis, peer: int, tag: int) -> dist.Work:
        work = dist.irecv(as_bytes(x), axis.ranks[peer], axis.groups[self._lane], tag)
        assert work is not None
        return work


def as_bytes(x: Tensor) -> Tensor:
    """A view: gloo then needs to know no dtype."""
    return x.view(-1).view(torch.uint8)

"""The transport of a device whose backend serves torch.distributed: native PyTorch on Neuron.

    transport = DeviceTransport("gather")      # over the lane's own process groups

A blocking call of that backend does not block the host: the collective is enqueued on the current
stream (Neuron SDK 2.33, How to use torch.distributed on Neuron). There is no send and receive.
"""

import torch.distributed as dist
from torch import Tensor

from ndtrain.ops.norm import wide
from ndtrain.runtime.mesh import Axis

# torch 2.13 renames them and warns of the old names; before, the new ones do not exist.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class DeviceTransport:
    def __init__(self, lane: str) -> None:
        """lane: whose process groups it uses (`mesh.LANES`); one stream at a time may use them."""
        self._lane = lane

    def all_gather(self, x: Tensor, axis: Axis, out: Tensor | None) -> Tensor:
        gathered = x.new_empty((axis.size * x.shape[0], *x.shape[1:])) if out is None else out
        if _memory(x) == _memory(gathered):
            x = x.clone()  # nothing promises that a collective may read what it writes
        _all_gather(gathered, x, axis.groups[self._lane])
        return gathered

    def reduce_scatter(self, x: Tensor, axis: Axis) -> Tensor:
        """In the wide dtype, as the other transports add; the order is the backend's."""
        widened = x.to(wide(x.dtype))
        own = widened.new_empty((x.shape[0] // axis.size, *x.shape[1:]))
        _reduce_scatter(own, widened, group=axis.groups[self._lane])
        return own.to(x.dtype)

    def permute(self, x: Tensor, axis: Axis, shift: int, out: Tensor) -> None:
        raise NotImplementedError("no send and receive here: the configuration refuses a ring")

    def broadcast(self, x: Tensor, axis: Axis) -> None:
        """As an all-gather: a broadcast is an all-reduce there, which moves twice as much."""
        x.copy_(self.all_gather(x[None], axis, None)[0])


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()

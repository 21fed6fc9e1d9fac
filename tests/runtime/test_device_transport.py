"""Ordinary collectives of torch.distributed give what the transport of CPUs gives."""

import pytest
import torch
from torch import Tensor

from ndtrain.core.spans import SpanRecorder
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.device_transport import DeviceTransport
from ndtrain.runtime.gloo import GlooTransport
from ndtrain.runtime.mesh import Mesh
from tests.rank_pool import ranks


def both(rank: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """(of the device's transport, of gloo's) for each operation."""
    axis = Mesh.create(2, 1).tensor
    device = Collectives(DeviceTransport("main"), SpanRecorder())
    host = Collectives(GlooTransport("main"), SpanRecorder())
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(rank)).to(dtype)
    place = torch.zeros(8, 3, dtype=dtype)
    own = place[4 * rank : 4 * rank + 4].copy_(x)  # where a gather in place has it
    return [
        (device.all_gather(x, axis, "x"), host.all_gather(x, axis, "x")),
        (device.all_gather(own, axis, "x", out=place), host.all_gather(x, axis, "x")),
        (device.reduce_scatter(x, axis, "x"), host.reduce_scatter(x, axis, "x")),
        (device.all_reduce(x, axis, "x"), host.all_reduce(x, axis, "x")),
        (device.broadcast(x.clone(), axis, "x"), host.broadcast(x.clone(), axis, "x")),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_ranks_get_the_same_bits_from_either(dtype: torch.dtype) -> None:
    """Of two numbers there is one sum, whatever the order."""
    for pairs in ranks(2).run(both, dtype):
        for ours, theirs in pairs:
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)


def test_a_ring_is_no_silent_substitute() -> None:
    axis = Mesh.place(0, 2, 1).tensor
    x = torch.ones(2)
    with pytest.raises(NotImplementedError, match="no send and receive"):
        DeviceTransport("gather").permute(x, axis, 1, torch.empty(2))

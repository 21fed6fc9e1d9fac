"""Four virtual devices in one process execute the collectives of traced schedules for real.

    PJRT_DEVICE=CPU CPU_NUM_DEVICES=4 python -m tests.xla.virtual_devices

It prints the largest relative error of each schedule. torch-xla's CPU devices do not meet as
processes, but as partitions of one program they do: inside manual sharding each device computes on
its own part. All devices run one program there: where each stands is data of it, sharded as all
else is.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch_xla
import torch_xla.distributed.spmd as spmd
import torch_xla.runtime as xla_runtime
from torch import Tensor

from ndtrain.core.spans import SpanRecorder
from ndtrain.overlap.collective_matmul import MODES, Mode
from ndtrain.overlap.execute_traced import execute_traced
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.mesh import Axis, Mesh, axis_lines
from ndtrain.runtime.place import TracedPlace
from ndtrain.runtime.runtime import Runtime, inline
from ndtrain.runtime.xla import XlaTrace, XlaTransport
from tests.overlap.cases import BUILDERS, OPERATIONS, inputs, reference

SIZE = 4
DTYPE = torch.float32


class PartitionTransport(XlaTransport):
    """The same collectives, between the partitions of one program instead of replicas."""

    place: TracedPlace

    def permute(self, x: Tensor, axis: Axis, shift: int, out: Tensor) -> None:
        """torch-xla's own is between replicas alone: all is gathered, and one part kept."""
        source = self.place.ahead.narrow(0, -shift % axis.size, 1)
        out.copy_(self.all_gather(x[None], axis, None).index_select(0, source).squeeze(0))

    def all_gather(self, x: Tensor, axis: Axis, out: Tensor | None) -> Tensor:
        groups = self._groups[axis.name]
        return self._xla.all_gather(
            x, 0, groups, pin_layout=False, channel_id=1, use_global_device_ids=True
        )

    def reduce_scatter(self, x: Tensor, axis: Axis) -> Tensor:
        return self._xla.reduce_scatter(
            self._xla.REDUCE_SUM,
            x,
            1.0,
            0,
            axis.size,
            self._groups[axis.name],
            pin_layout=False,
            channel_id=1,
            use_global_device_ids=True,
        )


def runtime() -> Runtime:
    spans = SpanRecorder()
    spans.enabled = False
    collectives = Collectives(PartitionTransport(axis_lines(SIZE, 1)), spans)
    streams = inline(collectives)
    device, place = torch_xla.device(), Mesh.place(0, SIZE, 1)
    return Runtime(device, place, collectives, streams, streams, spans, trace=XlaTrace())


def divided(parts: Sequence[Tensor], mesh: spmd.Mesh, on: Runtime) -> Tensor:
    """Every device's part below the others': dim 0 is what the mesh divides."""
    stacked = torch.cat(list(parts)).to(on.device)
    spec = ("tensor", *[None] * (stacked.ndim - 1))
    return spmd.enable_manual_sharding(stacked, spec, mesh=mesh).global_tensor


def own_place(mesh: spmd.Mesh, on: Runtime) -> TracedPlace:
    """The first rank's to the host, and to each device its own."""
    places = [TracedPlace.on(torch.device("cpu"), rank, SIZE) for rank in range(SIZE)]
    ahead = divided([place.ahead for place in places], mesh, on)
    return TracedPlace(0, SIZE, ahead, divided([place.back for place in places], mesh, on))


def error(operation: str, mode: Mode, mesh: spmd.Mesh, on: Runtime) -> float:
    """Of all devices' outputs, relative to the largest element of each output."""
    ranks = [inputs(operation, SIZE, rank, DTYPE) for rank in range(SIZE)]
    own = [divided(parts, mesh, on) for parts in zip(*ranks, strict=True)]
    place = own_place(mesh, on)
    assert isinstance(on.collectives.transport, PartitionTransport)
    on.collectives.transport.place = place
    schedule = BUILDERS[operation](operation, place, mode)
    outputs = execute_traced(schedule, own, on, on.mesh.tensor)
    worst = 0.0
    for place, y in enumerate(outputs):
        full = (SIZE * y.shape[0], *y.shape[1:])
        spec = ("tensor", *[None] * (y.ndim - 1))
        whole = spmd.disable_manual_sharding(y, spec, full, mesh=mesh).global_tensor.cpu()
        for rank, part in enumerate(whole.chunk(SIZE)):
            expected = reference(operation, SIZE, rank, DTYPE)[place]
            worst = max(worst, float((part.double() - expected).abs().max() / expected.abs().max()))
    return worst


def main() -> None:
    xla_runtime.use_spmd()
    mesh = spmd.Mesh(np.arange(SIZE), (SIZE,), ("tensor",))
    on = runtime()
    for operation in OPERATIONS:
        for mode in MODES:
            print(operation, mode, error(operation, mode, mesh, on), flush=True)


if __name__ == "__main__":
    main()

"""Every collective and background copy goes through here; each has a name, a stream and a span.

    x_full = collectives.all_gather(x, mesh.tensor, "layers.0.attention.qkv")

The calls of all ranks of an axis must come in the same order: a branch around one may depend only
on what all those ranks share. On an axis of size 1 nothing is called and the input comes back.
"""

import time

import torch
from torch import Tensor

from ndtrain.core.faults import reach
from ndtrain.core.spans import SpanRecorder
from ndtrain.runtime.flight import FlightRecorder
from ndtrain.runtime.mesh import Axis
from ndtrain.runtime.transport import Transport, sum_in_order

# Below this an all-reduce is one exchange of everything; above, the two halves move fewer bytes.
SMALL_BYTES = 64 * 1024


class Collectives:
    def __init__(self, transport: Transport, spans: SpanRecorder) -> None:
        self.transport = transport
        self.spans = spans
        self.flight = FlightRecorder()

    def all_gather(
        self, x: Tensor, axis: Axis, name: str, stream: str = "gather", out: Tensor | None = None
    ) -> Tensor:
        """[n, ...] of each rank -> [size * n, ...] in rank order, in `out` if given."""
        if axis.size == 1:
            return x
        start_ns = self._begin(f"{name}.all_gather", axis, x.nbytes)
        gathered = self.transport.all_gather(x.contiguous(), axis, out)
        self._record(f"{name}.all_gather", stream, start_ns, x.nbytes * (axis.size - 1))
        return gathered

    def reduce_scatter(self, x: Tensor, axis: Axis, name: str, stream: str = "scatter") -> Tensor:
        """[size * n, ...] of each rank -> own [n, ...] of the sum, added in rank order in fp32."""
        if axis.size == 1:
            return x
        start_ns = self._begin(f"{name}.reduce_scatter", axis, x.nbytes)
        own = self.transport.reduce_scatter(x.contiguous(), axis)
        sent = x.nbytes * (axis.size - 1) // axis.size
        self._record(f"{name}.reduce_scatter", stream, start_ns, sent)
        return own

    def all_reduce(self, x: Tensor, axis: Axis, name: str, stream: str = "scatter") -> Tensor:
        """The sum over the axis, the same bits on every rank; any shape."""
        if axis.size == 1:
            return x
        if x.nbytes <= SMALL_BYTES:
            parts = self.all_gather(x[None], axis, name, stream)
            return sum_in_order(list(parts.unbind(0)))
        flat = x.reshape(-1)
        padding = -flat.numel() % axis.size
        if padding:
            flat = torch.cat([flat, flat.new_zeros(padding)])
        own = self.reduce_scatter(flat, axis, name, stream)
        total = self.all_gather(own, axis, name, stream)
        return total[: x.numel()].view(x.shape)

    def all_reduce_max(self, x: Tensor, axis: Axis, name: str) -> Tensor:
        """The elementwise maximum over the axis; for small tensors."""
        return self.all_gather(x[None], axis, name, "scatter").amax(0) if axis.size > 1 else x

    def permute(
        self, x: Tensor, axis: Axis, shift: int, name: str, stream: str, out: Tensor | None = None
    ) -> Tensor:
        """Sends x to rank + shift; returns what came from rank - shift, in `out` if given."""
        out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
        start_ns = self._begin(f"{name}.permute", axis, x.nbytes)
        self.transport.permute(x.contiguous(), axis, shift, out)
        self._record(f"{name}.permute", stream, start_ns, x.nbytes)
        return out

    def broadcast(self, x: Tensor, axis: Axis, name: str, stream: str = "gather") -> Tensor:
        """The first rank's x on every rank."""
        if axis.size == 1:
            return x
        x = x.contiguous()
        start_ns = self._begin(f"{name}.broadcast", axis, x.nbytes)
        self.transport.broadcast(x, axis)
        self._record(f"{name}.broadcast", stream, start_ns, x.nbytes if axis.rank == 0 else 0)
        return x

    def copy(self, x: Tensor, name: str, out: Tensor | None = None) -> Tensor:
        """x in memory of its own, contiguous, or in `out`: device to host, host to device."""
        start_ns = time.perf_counter_ns()
        if out is None:
            out = torch.empty_like(x, memory_format=torch.contiguous_format)
        out.copy_(x, non_blocking=True)  # behind what its stream was given before
        self.spans.add(name, "dma", start_ns, time.perf_counter_ns(), x.nbytes)
        return out

    def barrier(self, axis: Axis, name: str) -> None:
        self.all_reduce(torch.zeros(1), axis, name)

    def _begin(self, name: str, axis: Axis, num_bytes: int) -> int:
        reach("collective")
        self.flight.begin(name, axis.name, num_bytes)
        return time.perf_counter_ns()

    def _record(self, name: str, stream: str, start_ns: int, num_bytes: int) -> None:
        self.flight.end()
        self.spans.add(name, stream, start_ns, time.perf_counter_ns(), num_bytes)

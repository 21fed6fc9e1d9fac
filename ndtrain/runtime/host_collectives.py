"""Transports beside torch-xla's: of what is on the host, and of graphs that cannot communicate.

Agreements between ranks (data, saves, requests to stop) are tensors of the host: gloo carries them
whatever the device. On torch-xla's CPU device processes do not see each other, so gloo carries the
step's own collectives too, between graphs: numbers without overlap, for a machine without a device.
"""

import torch
from torch import Tensor

from ndtrain.runtime.gloo import GlooTransport
from ndtrain.runtime.mesh import Axis
from ndtrain.runtime.transport import Transport


class ByDevice:
    """What is on the host goes through one transport, all else through another."""

    def __init__(self, host: Transport, device: Transport) -> None:
        self._host, self._device = host, device

    def _of(self, x: Tensor) -> Transport:
        return self._host if x.device.type == "cpu" else self._device

    def all_gather(self, x: Tensor, axis: Axis, out: Tensor | None) -> Tensor:
        return self._of(x).all_gather(x, axis, out)

    def reduce_scatter(self, x: Tensor, axis: Axis) -> Tensor:
        return self._of(x).reduce_scatter(x, axis)

    def permute(self, x: Tensor, axis: Axis, shift: int, out: Tensor) -> None:
        self._of(x).permute(x, axis, shift, out)

    def broadcast(self, x: Tensor, axis: Axis) -> None:
        self._of(x).broadcast(x, axis)


class GlooBetweenGraphs:
    """Stands in for collectives on torch-xla's CPU device, which cannot reach another process.

    Each call ends the graph that was recorded so far, runs it, and moves the tensor through the
    host. Numbers are those of gloo's transport; nothing overlaps.
    """

    def __init__(self) -> None:
        import torch_xla

        self._torch_xla = torch_xla
        self._gloo = GlooTransport("main")

    def all_gather(self, x: Tensor, axis: Axis, out: Tensor | None) -> Tensor:
        gathered = self._gloo.all_gather(self._to_host(x), axis, None).to(x.device)
        return gathered if out is None else out.copy_(gathered)

    def reduce_scatter(self, x: Tensor, axis: Axis) -> Tensor:
        return self._gloo.reduce_scatter(self._to_host(x), axis).to(x.device)

    def permute(self, x: Tensor, axis: Axis, shift: int, out: Tensor) -> None:
        sent = self._to_host(x)
        received = torch.empty_like(sent)
        self._gloo.permute(sent, axis, shift, received)
        out.copy_(received.to(x.device))

    def broadcast(self, x: Tensor, axis: Axis) -> None:
        sent = self._to_host(x)
        self._gloo.broadcast(sent, axis)
        x.copy_(sent.to(x.device))

    def _to_host(self, x: Tensor) -> Tensor:
        # Everything that is alive, not x alone: what x was computed from would run again later.
        self._torch_xla.sync()
        return x.cpu().contiguous()

"""One process that stands for a rank: its own data comes back from every exchange.

    runtime = lone(size=4, rank=1, before=wait_for_something)

For what is about timing and failures and not about values: `before` is called with the name of each
communication, in its stream's thread, `before_compute` with the name of each compute node.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ndtrain.core.spans import SpanRecorder
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.mesh import LANES, Axis, Mesh
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.streams import BackgroundStream, InlineStream, Pending, Work


def do_nothing(name: str) -> None: ...


class Loopback:
    """A transport between a rank and itself."""

    def all_gather(self, x: Tensor, axis: Axis, out: Tensor | None) -> Tensor:
        gathered = torch.cat([x] * axis.size)
        return gathered if out is None else out.copy_(gathered)

    def reduce_scatter(self, x: Tensor, axis: Axis) -> Tensor:
        return x.chunk(axis.size)[axis.rank].clone()

    def permute(self, x: Tensor, axis: Axis, shift: int, out: Tensor) -> None:
        if x.shape == out.shape:
            out.copy_(x)
        else:  # the data of another rank would have decided the size
            out.zero_()

    def broadcast(self, x: Tensor, axis: Axis) -> None: ...


class Told:
    """A background stream that calls `before` with the name of each operation, in its thread."""

    def __init__(self, lane: str, spans: SpanRecorder, before: Callable[[str], None]) -> None:
        self._stream = BackgroundStream(lane, Collectives(Loopback(), spans))
        self._before = before

    def submit(self, name: str, work: Work) -> Pending:
        def told(collectives: Collectives) -> Tensor:
            self._before(name)
            return work(collectives)

        return self._stream.submit(name, told)


class Blocking(Told):
    """A mutant: what should run in the background is waited for at once."""

    def submit(self, name: str, work: Work) -> Pending:
        pending = super().submit(name, work)
        pending.wait()
        return pending


class ToldInline(Told):
    def __init__(self, lane: str, spans: SpanRecorder, before: Callable[[str], None]) -> None:
        self._stream = InlineStream(Collectives(Loopback(), spans))  # type: ignore[assignment]
        self._before = before


@dataclass(frozen=True)
class Watched(Runtime):
    """Calls `before_compute` with the name of each compute node as it starts."""

    before_compute: Callable[[str], None] = field(default=do_nothing)

    def compute(self, name: str) -> AbstractContextManager[None]:
        self.before_compute(name)
        return super().compute(name)


def lone(
    size: int,
    rank: int,
    before: Callable[[str], None] = do_nothing,
    before_compute: Callable[[str], None] = do_nothing,
    stream: type[Told] = Told,
) -> Runtime:
    spans = SpanRecorder()
    lanes = (*LANES[1:], "dma", "host")
    return Watched(
        device=torch.device("cpu"),
        mesh=Mesh.place(rank, size, 1),
        collectives=Collectives(Loopback(), spans),
        streams={lane: stream(lane, spans, before) for lane in lanes},
        serial_streams={lane: ToldInline(lane, spans, before) for lane in lanes},
        spans=spans,
        before_compute=before_compute,
    )

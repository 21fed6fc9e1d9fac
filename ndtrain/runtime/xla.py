"""The transport of torch-xla: collectives are instructions of the traced graph.

    runtime = trace_xla(3, tp=8, dp=1, num_kv_heads=8)   # the graph of rank 3, to be read

torch-xla threads one token through all collectives of a graph, as data: each one's operand has the
former one's result in it, times zero. So collectives run in the order in which they were recorded,
and whatever does not read their results is free to run beside them.

All ranks record the same graph: where a rank stands is data of it (`place.py`), so that a node
compiles it once. Replica groups are always written out, for every line of the axis: a collective's
groups have to divide the world evenly, and compiling needs no other process.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ndtrain.core.errors import UserError
from ndtrain.core.spans import SpanRecorder
from ndtrain.ops import by_value  # noqa: F401  registers what the device needs
from ndtrain.ops.norm import wide
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.compilation import CompilationWatch, Compiled, Lookup, Note
from ndtrain.runtime.mesh import Axis, Mesh, axis_lines
from ndtrain.runtime.place import TracedPlace
from ndtrain.runtime.runtime import Runtime, inline, num_kv_replicas

Lines = Mapping[str, Sequence[Sequence[int]]]
"""Axis -> all its lines, as `mesh.axis_lines` gives them."""


def import_torch_xla() -> Any:
    """The module. Raises UserError where it is not installed or does not fit torch."""
    try:
        import torch_xla
    except ImportError as error:
        raise UserError(
            f"torch-xla cannot be imported: {error}",
            f"torch {torch.__version__}",
            'pip install "torch==2.9.1" "torch_xla==2.9.0", or on Trainium torch-neuronx from AWS',
        ) from None
    return torch_xla


class XlaTransport:
    """Everything by value: `out` is only another name for the result."""

    def __init__(self, lines: Lines) -> None:
        import torch_xla.core.xla_model as xla_model

        self._xla = xla_model
        self._groups = {axis: [list(line) for line in some] for axis, some in lines.items()}

    def all_gather(self, x: Tensor, axis: Axis, out: Tensor | None) -> Tensor:
        gathered = self._xla.all_gather(x, 0, self._groups[axis.name], pin_layout=False)
        return gathered if out is None else out.copy_(gathered)

    def reduce_scatter(self, x: Tensor, axis: Axis) -> Tensor:
        """In the wide dtype, as the other transports add: XLA reduces in the operand's dtype."""
        own = self._xla.reduce_scatter(
            self._xla.REDUCE_SUM,
            x.to(wide(x.dtype)),
            1.0,
            0,
            axis.size,
            self._groups[axis.name],
            pin_layout=False,
        )
        return own.to(x.dtype)

    def permute(self, x: Tensor, axis: Axis, shift: int, out: Tensor) -> None:
        """Once around each line: Neuron's runtime knows no other pattern."""
        pairs = [
            [source, line[(place + shift) % axis.size]]
            for line in self._groups[axis.name]
            for place, source in enumerate(line)
        ]
        out.copy_(self._xla.collective_permute(x, pairs))

    def broadcast(self, x: Tensor, axis: Axis) -> None:
        x.copy_(self.all_gather(x[None], axis, None)[0])


class XlaTrace:
    """`traced.Trace` on torch-xla."""

    def __init__(self, has_scopes: bool = True, lookup: Lookup | None = None) -> None:
        """has_scopes: False where graphs end inside them, which torch-xla does not allow."""
        import torch_xla.core.xla_model as xla_model
        import torch_xla.debug.metrics as metrics
        import torch_xla.debug.profiler as profiler

        self._has_scopes = has_scopes
        self._xla, self._profiler, self._metrics = xla_model, profiler, metrics
        self._watch = CompilationWatch(import_torch_xla().sync, self.num_compilations, lookup)

    def scope(self, name: str) -> AbstractContextManager[None]:
        return self._profiler.Trace(name) if self._has_scopes else nullcontext()

    def tie(self, x: Tensor, after: Sequence[Tensor]) -> Tensor:
        # A barrier alone is gone when XLA orders instructions (it takes barriers away before); a
        # product with zero alone may be dropped where a compiler may neglect what is not finite.
        assert x.is_floating_point()
        assert all(one.is_floating_point() for one in after), "0 times an integer is 0"
        # The barrier works in place; other readers of x must not wait with this one.
        tied = [x.clone(), *(one.flatten()[:1].clone() for one in after)]
        self._xla.optimization_barrier_(tied)
        x, *elements = tied
        # Times one, not plus zero: that would make +0 of -0.
        one = 1 + sum((0 * element).to(x.dtype) for element in elements)
        return x * one

    def run(self, name: str, note: Note) -> None:
        self._watch.run(name, note)

    @property
    def compiled(self) -> Sequence[Compiled]:
        return self._watch.compiled

    def num_compilations(self) -> int:
        """Graphs that were compiled in this process, by whoever asked for their values."""
        compiled = self._metrics.metric_data("CompileTime")
        return compiled[0] if compiled else 0


def trace_xla(rank: int, tp: int, dp: int, num_kv_heads: int) -> Runtime:
    """One rank of tp x dp in a process of its own: its graph can be traced and read, not run.

    Has torch-xla keep the names of scopes in graphs. Raises UserError without torch-xla.
    """
    _keep_names()
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    device = import_torch_xla().device()
    replicas = num_kv_replicas(tp, num_kv_heads)
    spans = SpanRecorder()
    spans.enabled = False  # the host's times while tracing are nobody's
    collectives = Collectives(XlaTransport(axis_lines(tp, dp, replicas)), spans)
    streams = inline(collectives)
    mesh = Mesh.place(rank, tp, dp, replicas)
    places = places_on(device, mesh)
    return Runtime(
        device, mesh, collectives, streams, streams, spans, trace=XlaTrace(), places=places
    )


def places_on(device: torch.device, mesh: Mesh) -> dict[str, TracedPlace]:
    """By axis: of those with more than one rank, so that all ranks trace the same graph."""
    return {
        axis.name: TracedPlace.on(device, axis.rank, axis.size)
        for axis in (mesh.data, mesh.tensor)
        if axis.size > 1
    }


def _keep_names() -> None:
    """torch-xla reads the variables when it is imported."""
    names = ("XLA_IR_DEBUG", "XLA_HLO_DEBUG")
    if sys.modules.get("torch_xla") is not None and any(
        os.environ.get(name) != "1" for name in names
    ):
        raise UserError(
            "torch-xla was imported without keeping names in its graphs",
            "the environment",
            f"set {' '.join(f'{name}=1' for name in names)} before the program starts",
        )
    os.environ.update(dict.fromkeys(names, "1"))


def hlo_text(tensors: Sequence[Tensor]) -> str:
    """The graph that would compute the tensors, before any pass of a compiler.

    Afterwards the device is ready for the next trace: collectives that never ran are forgotten.
    """
    torch_xla = import_torch_xla()
    text: str = torch_xla._XLAC._get_xla_tensors_hlo(list(tensors))
    torch_xla._XLAC._set_all_reduce_token(str(torch_xla.device()), None)
    return text

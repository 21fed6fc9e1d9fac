"""Neuron's backend of torch.compile without Neuron: it stands in for it in tests.

    with neuron_backend() as backend:
        torch.compile(function, backend="neuron", fullgraph=True)(x)
    backend.num_compiled, backend.num_runs
    neuron_backend(running=compiler.region)     # each run of a graph is inside, by a name of it

Like the real one (Neuron SDK 2.33, torch/compile/about-torch-compile) it differentiates by AOT
autograd and lowers PyTorch's own operations; any other op is an error, unless its name is among
`known`, as those of `nki_op` are. The graphs then run on the CPU, one operation after the other.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch import fx
from torch._dynamo.backends import registry
from torch._dynamo.backends.common import aot_autograd


@dataclass
class Backend:
    known: tuple[str, ...]
    running: Callable[[str], AbstractContextManager[None]]
    num_compiled: int = 0
    num_runs: int = 0

    def compile(self, graph: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        """Forward and backward are graphs of their own."""
        for node in graph.graph.nodes:
            if node.op == "call_function" and not self.can_lower(node.target):
                raise NotImplementedError(f"cannot lower {node.target}")
        self.num_compiled += 1
        shapes = [tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)]
        name = f"{graph.code}{shapes}"

        def run(*arguments: Any) -> Any:
            self.num_runs += 1
            with self.running(name):
                return graph(*arguments)

        return make_boxed_func(run)

    def can_lower(self, target: Any) -> bool:
        if target is operator.getitem:
            return True
        namespace = getattr(target, "namespace", "")
        return namespace in ("aten", "prims") or getattr(target, "_name", "") in self.known


@contextmanager
def neuron_backend(
    known: tuple[str, ...] = (),
    running: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> Iterator[Backend]:
    """Registers it and forgets all graphs, before and after."""
    backend = Backend(known, running)
    torch._dynamo.reset()
    lower = aot_autograd(fw_compiler=backend.compile, bw_compiler=backend.compile)
    registry.register_backend(lower, name="neuron")
    try:
        yield backend
    finally:
        registry._COMPILER_FNS.pop("neuron", None)
        registry._BACKENDS.pop("neuron", None)
        torch._dynamo.reset()

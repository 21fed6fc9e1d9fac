"""NKI attention in a compiled graph, up to the last inch: torch_neuronx is a stand-in.

Its `nki_op` makes a custom op whose shapes come from the function itself; its launcher gives
kernels to the simulator.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ndtrain.core.errors import UserError
from ndtrain.ops import nki_op
from ndtrain.ops.attention import attention
from ndtrain.ops.nki_attention import NkiAttention
from tests.ops.test_nki_launch import SCALE, Launcher, SimulatedCore, inputs
from tests.parallel.stand_in_backend import neuron_backend

pytest.importorskip("ml_dtypes", reason="the simulator needs the extra nkisim")
KNOWN = ("ndtrain::nki_attention", "ndtrain::nki_attention_backward")


def stand_in_nki_op(name: str, mutates_args: Any) -> Callable[[Callable], Any]:
    def decorate(function: Callable) -> Any:
        op = torch.library.custom_op(name, function, mutates_args=tuple(mutates_args))

        def fake(*arguments: Any) -> tuple[Tensor, ...]:
            """The real one asks the kernel, which knows without running."""
            own = "attention" if name == KNOWN[0] else "attention_backward"
            return getattr(torch.ops.ndtrain, own)(*arguments, "nki")

        op.register_fake(fake)
        return op

    return decorate


def test_a_compiled_graph_has_the_kernels_as_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    grids: list[int | None] = []
    module = types.ModuleType("torch_neuronx")
    module.nki_op = stand_in_nki_op  # type: ignore[attr-defined]
    module.wrap_nki = lambda kernel: Launcher(kernel, grids)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_neuronx", module)
    monkeypatch.setattr(nki_op, "ON_DEVICE", NkiAttention(SimulatedCore()))
    nki_op.register()
    nki_op.register()  # a process may build twice
    q, k, v, dout = inputs()
    starts = torch.zeros(1, 40, dtype=torch.int64)
    starts[0, 17:] = 17

    def results(implementation: str, compiles: bool) -> list[Tensor]:
        def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, starts, SCALE, implementation)[0]

        leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
        if compiles:
            function = torch.compile(function, backend="neuron", fullgraph=True, dynamic=False)
        out = function(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, dout)]

    with neuron_backend(known=KNOWN) as backend:
        ours = results("nki", True)
        assert (backend.num_compiled, backend.num_runs) == (2, 2)
    assert grids == [2, 2]  # forward and backward, on both cores of a logical one
    for mine, right in zip(ours, results("reference", False), strict=True):
        torch.testing.assert_close(mine, right, rtol=2**-6, atol=2**-6)  # a few roundings of bf16


def test_a_stack_that_cannot_make_an_op_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_neuronx", types.ModuleType("torch_neuronx"))
    with pytest.raises(UserError, match="has no `nki_op`") as caught:
        nki_op.register.__wrapped__()
    assert "torch-neuronx 2.13" in caught.value.help

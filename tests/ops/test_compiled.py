"""The ops under torch.compile: PyTorch's own operations, with no more error than the eager ops."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch.autograd.graph import saved_tensors_hooks

from ndtrain.ops.attention import attention
from ndtrain.ops.norm import rms_norm_forward
from tests.ops.test_ops import CASES, Function, _random, output_and_gradients
from tests.parallel.stand_in_backend import neuron_backend

LOWERED = ("rms_norm", "rope", "swiglu", "attention_reference")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOWERED)
def test_no_op_of_ours_is_left_and_rounding_is_that_of_the_eager_op(name: str, dtype) -> None:
    """Error against fp64 at most 1.2 times as large, root mean square over seeds."""
    case = CASES[name]
    squares = torch.zeros(2, len(case.inputs(0)) + 1, dtype=torch.float64)
    with neuron_backend() as backend:
        compiled = torch.compile(case.function, backend="neuron", fullgraph=True, dynamic=False)
        for seed in range(20):
            inputs = [x.to(dtype) for x in case.inputs(seed)]
            exact = output_and_gradients(case.reference, [x.double() for x in inputs])
            for row, function in enumerate((compiled, case.function)):
                for column, result in enumerate(output_and_gradients(function, inputs)):
                    error = (result.double() - exact[column]).norm() / exact[column].norm()
                    squares[row, column] += error**2
        assert backend.num_compiled == 2  # forward and backward, once for all seeds
        assert backend.num_runs == 40
    ours, eager = squares.div(20).sqrt()
    assert (ours <= 1.2 * eager).all(), (ours, eager)


def kept_bytes(function: Function, inputs: list[Tensor]) -> int:
    """Memory that waits for backward."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    leaves = [x.detach().requires_grad_() for x in inputs]
    with saved_tensors_hooks(pack, lambda x: x):
        out = function(*leaves)
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", ["rms_norm", "rope", "swiglu"])
def test_a_compiled_graph_keeps_no_more_for_backward_than_the_op(name: str) -> None:
    """Differentiated by PyTorch, their references would keep up to four times as much in bf16."""
    case = CASES[name]
    inputs = [x.bfloat16() for x in case.inputs(0)]
    ours, derived = (
        compiled_kept_bytes(case.function, inputs),
        compiled_kept_bytes(case.reference, inputs),
    )
    assert ours <= kept_bytes(case.function, inputs)
    assert derived > 2 * ours or name == "rope"  # whose gradient needs the tables alone


@pytest.mark.skipif(
    torch.__version__ < (2, 13), reason="torch 2.9 keeps the scores and not their log-sum-exp"
)
def test_compiled_attention_keeps_no_scores() -> None:
    length, batch, num_heads = 128, 2, 4
    inputs = _random(0, *[(length, batch, num_heads, 4)] * 3)

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, None, 0.3, "reference")[0]

    scores_bytes = batch * num_heads * length**2 * torch.float64.itemsize
    assert compiled_kept_bytes(function, inputs) < scores_bytes / 4


def compiled_kept_bytes(function: Function, inputs: list[Tensor]) -> int:
    with neuron_backend():
        compiled = torch.compile(function, backend="neuron", fullgraph=True, dynamic=False)
        kept_bytes(compiled, inputs)  # while it compiles, PyTorch asks about tensors of its own
        return kept_bytes(compiled, inputs)


def test_attention_over_documents_of_the_batch_stays_a_call() -> None:
    """A backend that can call it has its bits; one that has to lower it refuses."""
    inputs = CASES["attention_sdpa"].inputs(0)
    function = CASES["attention_sdpa"].function
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for ours, eager in zip(
        output_and_gradients(compiled, inputs), output_and_gradients(function, inputs), strict=True
    ):
        assert torch.equal(ours, eager)
    with (
        neuron_backend(),
        pytest.raises(BackendCompilerFailed, match=r"cannot lower ndtrain\.attention"),
    ):
        torch.compile(function, backend="neuron", fullgraph=True)(*inputs)


def test_an_op_that_was_left_in_is_refused() -> None:
    x, weight = CASES["rms_norm"].inputs(0)
    with (
        neuron_backend(),
        pytest.raises(BackendCompilerFailed, match=r"cannot lower ndtrain\.rms_norm"),
    ):
        torch.compile(rms_norm_forward, backend="neuron", fullgraph=True)(x, weight, 1e-5)

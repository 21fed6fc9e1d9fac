"""The functions for loops of your own: gradients of a plain MLP, and the example program."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ndtrain.core.errors import UserError
from ndtrain.overlap.collective_matmul import MODES
from ndtrain.parallel.functional import all_gather_matmul, matmul_reduce_scatter
from ndtrain.runtime.runtime import start_cpu, still
from tests.rank_pool import ranks

SEQUENCE, BATCH, HIDDEN, INNER = 16, 2, 12, 24
EXAMPLE = Path(__file__).parents[2] / "launch" / "own_loop.py"


def full_tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, up, down and the gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (SEQUENCE, BATCH, HIDDEN),
        (INNER, HIDDEN),
        (HIDDEN, INNER),
        (SEQUENCE, BATCH, HIDDEN),
    )
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)


def plain() -> list[Tensor]:
    x, up, down, dy = full_tensors()
    leaves = [tensor.requires_grad_() for tensor in (x, up, down)]
    y = torch.relu(x @ up.t()) @ down.t()
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def parallel(rank: int, size: int, mode: str) -> list[Tensor]:
    """Own parts of the result and of the three gradients."""
    runtime = start_cpu(size, 1, num_kv_heads=size)
    x, up, down, dy = full_tensors()
    parts = (x.chunk(size)[rank], up.chunk(size)[rank], down.chunk(size, 1)[rank])
    leaves = [part.contiguous().requires_grad_() for part in parts]
    hidden = torch.relu(all_gather_matmul(leaves[0], leaves[1], runtime, mode))
    y = matmul_reduce_scatter(hidden, leaves[2], runtime, mode)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.chunk(size)[rank])]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [2, 4])
def test_results_and_gradients_are_those_of_the_plain_layer(size, mode):
    results = ranks(size).run(parallel, size, mode)
    for expected, parts, dim in zip(plain(), zip(*results, strict=True), (0, 0, 0, 1), strict=True):
        torch.testing.assert_close(torch.cat(parts, dim), expected, rtol=1e-12, atol=1e-12)


def of_the_weight_alone(rank: int, size: int) -> Tensor:
    runtime = start_cpu(size, 1, num_kv_heads=size)
    hidden = torch.randn(SEQUENCE, BATCH, INNER, dtype=torch.float64)
    weight = full_tensors()[2].chunk(size, 1)[rank].contiguous().requires_grad_()
    y = matmul_reduce_scatter(hidden.chunk(size, 2)[rank], weight, runtime)
    (dweight,) = torch.autograd.grad(y, [weight], torch.ones_like(y))
    return dweight - hidden.chunk(size, 2)[rank].sum((0, 1)).expand_as(dweight)


@pytest.mark.parametrize("size", [1, 2])
def test_an_x_that_learns_nothing(size):
    for difference in ranks(size).run(of_the_weight_alone, size):
        torch.testing.assert_close(difference, torch.zeros_like(difference), rtol=0, atol=1e-12)


def run_example(rank: int) -> list[float]:
    spec = importlib.util.spec_from_file_location("own_loop", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.train(200)


def test_the_example_learns_on_two_ranks():
    for losses in ranks(2).run(run_example):
        assert losses[-1] < losses[0] / 10


def test_the_example_is_as_short_as_it_claims_to_be():
    program = EXAMPLE.read_text("utf-8").split("def train")[1].split("if __name__")[0]
    assert len(program.strip().splitlines()) <= 20


@pytest.mark.parametrize(
    ("function", "x", "weight", "mode", "message"),
    [
        (all_gather_matmul, (4, 2, 8), (6, 9), "ring", "does not fit"),
        (all_gather_matmul, (8, 8), (6, 8), "ring", "does not fit"),
        (all_gather_matmul, (4, 2, 8), (6, 8), "rings", "no mode `rings`"),
        (all_gather_matmul, (3, 2, 8), (6, 8), "chunk", "3 rows of a rank"),
        (matmul_reduce_scatter, (5, 2, 8), (6, 8), "ring", "5 rows cannot be divided by 2 ranks"),
        (matmul_reduce_scatter, (6, 2, 8), (6, 8), "chunk", "3 rows of a rank"),
    ],
)
def test_what_does_not_fit_is_refused(function, x, weight, mode, message):
    runtime = still(0, 2, 1, 2, "meta")
    tensors = (torch.empty(x, device="meta"), torch.empty(weight, device="meta"))
    with pytest.raises(UserError, match=message):
        function(*tensors, runtime, mode)

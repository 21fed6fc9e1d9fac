"""The head's schedule gives the bits of the loss that is computed without one."""

import pytest
import torch
from torch import Tensor

from ndtrain.ops import loss as loss_module
from ndtrain.ops.loss import LossAndGradients
from ndtrain.overlap.execute import execute
from ndtrain.overlap.head import HeadTokens, head_schedule
from ndtrain.overlap.operations import StridedRows
from ndtrain.runtime.place import Place
from ndtrain.runtime.runtime import Runtime, start_cpu
from tests.overlap.cases import CHUNK_ROWS, OUT, build, inputs
from tests.rank_pool import ranks

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def by_hand(runtime: Runtime, mode: str, dtype: torch.dtype) -> list[Tensor]:
    """Blocking collectives around `LossAndGradients`, part by part."""
    axis, collectives = runtime.mesh.tensor, runtime.collectives
    x, weight, targets, weights = inputs("head", axis.size, axis.rank, dtype)
    num_parts = 2 if mode == "chunk" else 1
    gradients = LossAndGradients(
        weight,
        axis.rank * OUT,
        lambda own: collectives.all_gather(own[None], axis, "statistics"),
        want_gradient=True,
    )
    scattered = []
    for index, part in enumerate(x.chunk(num_parts)):
        x_full = collectives.all_gather(part, axis, "x")
        rows = StridedRows(axis.size, index, num_parts)
        dx = gradients.add(x_full.flatten(0, 1), rows(targets).flatten(), rows(weights).flatten())
        assert dx is not None
        scattered.append(collectives.reduce_scatter(dx.view_as(x_full), axis, "dx"))
    return [gradients.loss, torch.cat(scattered), gradients.dweight]


def both(rank: int, size: int, mode: str, dtype: torch.dtype) -> tuple[list, list]:
    item = torch.promote_types(dtype, torch.float32).itemsize
    loss_module.CHUNK_BYTES = CHUNK_ROWS * OUT * item
    runtime = start_cpu(size, 1, num_kv_heads=size)
    tensors = inputs("head", size, rank, dtype)
    schedule = build("head", mode, size, rank)  # type: ignore[arg-type]
    ours = execute(schedule, tensors, runtime, runtime.mesh.tensor)
    expected = by_hand(runtime, mode, dtype)
    loss_module.CHUNK_BYTES = 8 * 2**20
    return [y.clone() for y in ours], [y.clone() for y in expected]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["off", "chunk"])
@pytest.mark.parametrize("size", [2, 4])
def test_bits_are_those_of_the_loss_by_hand(size: int, mode: str, dtype: torch.dtype) -> None:
    for ours, expected in ranks(size).run(both, size, mode, dtype):
        for y, other in zip(ours, expected, strict=True):
            assert y.dtype == other.dtype
            assert torch.equal(y, other)


def test_without_gradients_only_the_loss_is_made() -> None:
    tokens = HeadTokens(num_ranks=2, num_tokens=64, num_parts=2, rows=10)
    schedule = head_schedule("head", tokens, Place(0, 2), want_gradients=False)
    assert schedule.outputs == (schedule.nodes[-1].name,)
    assert not any(node.stream == "scatter" for node in schedule.nodes)
    whole = head_schedule("head", tokens, Place(0, 2), want_gradients=True)
    assert [node.name for node in whole.nodes if node.stream == "scatter"] == [
        "scatter_0",
        "scatter_1",
    ]
    assert [count for _, count in tokens.chunks()] == [10, 10, 10, 2]

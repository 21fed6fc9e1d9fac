"""Collectives between real processes: values, order of summation, bits on every rank, spans."""

import pytest
import torch
from torch import Tensor

from ndtrain.runtime.collectives import SMALL_BYTES
from ndtrain.runtime.runtime import Runtime, start_cpu
from tests.rank_pool import ranks

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def own(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of this rank that every rank can make."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(rank)).to(dtype)


def world(size: int) -> Runtime:
    return start_cpu(tp=size, dp=1, num_kv_heads=size)


def gather(rank: int, size: int, dtype: torch.dtype) -> Tensor:
    runtime = world(size)
    return runtime.collectives.all_gather(own(rank, (3, 5), dtype), runtime.mesh.tensor, "x")


def scatter(rank: int, size: int, dtype: torch.dtype) -> Tensor:
    runtime = world(size)
    x = own(rank, (size * 2, 5), dtype)
    return runtime.collectives.reduce_scatter(x, runtime.mesh.tensor, "x")


def reduce(rank: int, size: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    runtime = world(size)
    return runtime.collectives.all_reduce(own(rank, shape, dtype), runtime.mesh.tensor, "x")


def in_order(parts: list[Tensor]) -> Tensor:
    """Added from rank 0 up in at least fp32 and rounded once."""
    total = parts[0].to(torch.promote_types(parts[0].dtype, torch.float32))
    for part in parts[1:]:
        total = total + part.to(total.dtype)
    return total.to(parts[0].dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_gather_puts_the_ranks_below_each_other(dtype):
    expected = torch.cat([own(rank, (3, 5), dtype) for rank in range(4)])
    assert all(torch.equal(result, expected) for result in ranks(4).run(gather, 4, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_reduce_scatter_adds_in_rank_order_with_one_rounding(dtype):
    total = in_order([own(rank, (8, 5), dtype) for rank in range(4)])
    results = ranks(4).run(scatter, 4, dtype)
    assert torch.equal(torch.cat(results), total)


@pytest.mark.parametrize("shape", [(), (7,), (SMALL_BYTES // 4 + 3,), (129, 257)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_reduce_has_the_same_bits_on_every_rank(shape, dtype):
    total = in_order([own(rank, shape, dtype) for rank in range(4)])
    results = ranks(4).run(reduce, 4, shape, dtype)
    assert all(torch.equal(result, total) for result in results)


def non_contiguous(rank: int) -> tuple[Tensor, Tensor]:
    runtime = world(2)
    x = own(rank, (4, 6), torch.float32).t()
    return (
        runtime.collectives.all_gather(x, runtime.mesh.tensor, "x"),
        runtime.collectives.reduce_scatter(x, runtime.mesh.tensor, "x"),
    )


def test_views_move_as_their_values():
    parts = [own(rank, (4, 6), torch.float32).t() for rank in range(2)]
    results = ranks(2).run(non_contiguous)
    assert all(torch.equal(gathered, torch.cat(parts)) for gathered, _ in results)
    assert torch.equal(torch.cat([part for _, part in results]), parts[0] + parts[1])


def recorded(rank: int) -> list[tuple[str, str, int]]:
    runtime = world(2)
    x = own(rank, (4, 8), torch.float32)
    runtime.collectives.all_gather(x, runtime.mesh.tensor, "qkv")
    runtime.collectives.reduce_scatter(x, runtime.mesh.tensor, "o")
    return [(span.name, span.track, span.num_bytes) for span in runtime.spans.drain()]


def test_each_collective_leaves_a_span_with_name_stream_and_sent_bytes():
    expected = [("qkv.all_gather", "gather", 128), ("o.reduce_scatter", "scatter", 64)]
    assert ranks(2).run(recorded) == [expected, expected]


def test_an_axis_of_one_rank_moves_nothing():
    runtime = start_cpu(tp=1, dp=1, num_kv_heads=1)
    x = torch.ones(4)
    assert runtime.collectives.all_gather(x, runtime.mesh.tensor, "x") is x
    assert runtime.collectives.all_reduce(x, runtime.mesh.world, "x") is x
    assert runtime.spans.drain() == []


def maximum(rank: int) -> int:
    runtime = world(4)
    code = torch.tensor([rank if rank % 2 else -rank])
    return int(runtime.collectives.all_reduce_max(code, runtime.mesh.world, "code").item())


def test_all_reduce_max():
    assert ranks(4).run(maximum) == [3, 3, 3, 3]

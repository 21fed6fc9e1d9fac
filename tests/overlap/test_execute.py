"""Every schedule on real ranks: right numbers, the same bits serially, no byte too many.

u is the unit roundoff of a dtype, t the number of ranks.
"""

import functools
from collections import Counter
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ndtrain.ops.norm import wide
from ndtrain.overlap.collective_matmul import HALVES, MODES, Mode
from ndtrain.overlap.execute import execute
from ndtrain.runtime.runtime import start_cpu
from tests.overlap.cases import (
    ALL_SCHEDULES,
    BATCH,
    EVERY_SCHEDULE,
    IN,
    OPERATIONS,
    OUT,
    SEQUENCE,
    SUMMED,
    build,
    inputs,
    reference,
    sizes_of_parts,
    sizes_of_products,
)
from tests.rank_pool import ranks

SIZES = [2, 4]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


class Run(NamedTuple):
    outputs: list[Tensor]
    num_bytes: Counter[str]  # sent, by stream


Runs = dict[tuple[str, Mode, bool], Run]  # by operation, mode, whether serial


def run_everything(rank: int, size: int, dtype: torch.dtype) -> Runs:
    runtime = start_cpu(size, 1, num_kv_heads=size)
    runs: Runs = {}
    for operation, mode in ALL_SCHEDULES:
        for serial in (False, True):
            schedule = build(operation, mode, size, rank)
            tensors = inputs(operation, size, rank, dtype)
            runtime.spans.drain()
            outputs = execute(schedule, tensors, runtime, runtime.mesh.tensor, serial)
            num_bytes: Counter[str] = Counter()
            for span in runtime.spans.drain():
                num_bytes[span.track] += span.num_bytes
            runs[operation, mode, serial] = Run(list(outputs), num_bytes)
    return runs


@functools.cache
def results(size: int, dtype: torch.dtype) -> list[Runs]:
    received = ranks(size).run(run_everything, size, dtype)
    # Copies: what came through the pipe holds a file descriptor each.
    return [
        {key: Run([y.clone() for y in run.outputs], run.num_bytes) for key, run in runs.items()}
        for runs in received
    ]


def roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("operation", "mode"), ALL_SCHEDULES)
def test_concurrent_equals_serial_bit_for_bit(operation, mode, size, dtype):
    for runs in results(size, dtype):
        concurrent, serial = runs[operation, mode, False], runs[operation, mode, True]
        for y, expected in zip(concurrent.outputs, serial.outputs, strict=True):
            assert y.dtype in (dtype, wide(dtype))  # a loss is wide
            assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("operation", "mode"), EVERY_SCHEDULE)
def test_results_are_those_of_the_definition(operation, mode, size, dtype):
    """Error of a sum of n products, then of t parts (Higham 2002, section 3.1), and its rounding.

    n u sum |a b| for the products in the wide dtype, t u sum |part| for the ranks' sum; a narrow
    dtype rounds each part and the result.
    """
    for rank, runs in enumerate(results(size, dtype)):
        exact = reference(operation, size, rank, dtype)
        products = sizes_of_products(operation, size, rank, dtype)
        parts = sizes_of_parts(operation, size, rank, dtype)
        for y, expected, of_products, of_parts in zip(
            runs[operation, mode, False].outputs, exact, products, parts, strict=True
        ):
            num_products = max(IN, OUT, SEQUENCE * BATCH)
            bound = (num_products + size) * roundoff(wide(dtype)) * of_products
            if dtype != wide(dtype):
                bound = bound + 2 * roundoff(dtype) * of_parts
            assert (y.double() - expected).abs().sub(bound).max() <= 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_only_a_ring_of_sums_differs_from_blocking_and_by_a_function_of_the_ranks(
    operation, mode, size, dtype
):
    """All else is bit-equal to `off`, all-gather -> matmul foremost.

    Both orders of adding t parts are off by at most (t - 1) u sum |part| in the wide dtype; a
    narrow result is rounded once in each.
    """
    for rank, runs in enumerate(results(size, dtype)):
        ours, blocking = runs[operation, mode, False].outputs, runs[operation, "off", False].outputs
        parts = sizes_of_parts(operation, size, rank, dtype)
        for index, (y, expected) in enumerate(zip(ours, blocking, strict=True)):
            if mode not in HALVES or SUMMED.get(operation) != index:
                assert torch.equal(y, expected)
                continue
            bound = 2 * (size - 1) * roundoff(wide(dtype)) * parts[index]
            if dtype != wide(dtype):
                bound = bound + roundoff(dtype) * (y.double().abs() + expected.double().abs())
            assert (y.double() - expected.double()).abs().sub(bound).max() <= 0


def moved(operation: str, mode: Mode, size: int, dtype: torch.dtype) -> dict[str, int]:
    """The least that each rank has to send: t - 1 shards; of partial sums in the wide dtype."""
    sums = wide(dtype) if mode in HALVES else dtype
    shard = SEQUENCE // size * BATCH
    gathered = {"gather_matmul": IN, "column_backward": IN, "row_backward": OUT}.get(operation, 0)
    scattered = {"matmul_scatter": OUT, "column_backward": IN}.get(operation, 0)
    return {
        "gather": (size - 1) * shard * gathered * dtype.itemsize,
        "scatter": (size - 1) * shard * scattered * sums.itemsize,
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("operation", "mode"), EVERY_SCHEDULE)
def test_no_mode_sends_more_than_it_must(operation, mode, size, dtype):
    expected = moved(operation, mode, size, dtype)
    for runs in results(size, dtype):
        num_bytes = runs[operation, mode, False].num_bytes
        assert {stream: num_bytes[stream] for stream in expected} == expected
        assert num_bytes.keys() <= {"compute", "gather", "scatter"}
        if mode in HALVES and dtype == wide(dtype):
            assert num_bytes == runs[operation, "off", False].num_bytes


@pytest.mark.parametrize(("operation", "mode"), EVERY_SCHEDULE)
def test_on_an_axis_of_one_rank_nothing_moves(operation, mode):
    runtime = start_cpu(1, 1, num_kv_heads=1)
    tensors = inputs(operation, 1, 0, torch.float64)
    outputs = execute(build(operation, mode, 1, 0), tensors, runtime, runtime.mesh.tensor)
    for y, expected in zip(outputs, reference(operation, 1, 0, torch.float64), strict=True):
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert {span.track for span in runtime.spans.drain()} == {"compute"}

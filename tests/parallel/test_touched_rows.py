"""Rows that no token touched stay where they are, and the sum has the bits of a reduce-scatter."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ndtrain.parallel.touched_rows import sum_touched_rows
from ndtrain.runtime.runtime import Runtime, start_cpu
from tests.parallel.small import UNTIED, loss_of, start
from tests.rank_pool import ranks

VOCABULARY, HIDDEN = 24, 6
# By rank: which rows its tokens touched.
TOUCHED = {
    "some on each": {0: [0, 1, 20], 1: [1, 7, 8, 23], 2: [0, 1, 22]},
    "none on one": {0: [], 1: [3, 21], 2: [3]},
    "none anywhere": {0: [], 1: [], 2: []},
    "all": {rank: list(range(VOCABULARY)) for rank in range(3)},
}


def gradient(rank: int, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(rank)
    values = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    rows = TOUCHED[kind][rank]
    total = torch.zeros(VOCABULARY, HIDDEN)
    total[rows] = values[rows]
    return total


def num_bytes(runtime: Runtime) -> int:
    return sum(span.num_bytes for span in runtime.spans.drain())


def both(rank: int, kind: str) -> tuple[Tensor, Tensor, int, int]:
    runtime = start_cpu(1, 3, UNTIED.num_kv_heads)
    own, axis = gradient(rank, kind), runtime.mesh.data
    runtime.spans.drain()
    by_rows = sum_touched_rows(own, runtime.collectives, axis, "rows", "scatter")
    row_bytes = num_bytes(runtime)
    whole = runtime.collectives.reduce_scatter(own, axis, "whole")
    return by_rows, whole, row_bytes, num_bytes(runtime)


@pytest.mark.parametrize("kind", TOUCHED)
def test_equals_a_reduce_scatter_bit_for_bit(kind: str) -> None:
    for rank, (by_rows, whole, row_bytes, whole_bytes) in enumerate(ranks(3).run(both, kind)):
        assert torch.equal(by_rows, whole)
        sent = [row for row in TOUCHED[kind][rank] if row // (VOCABULARY // 3) != rank]
        size = HIDDEN * 4
        # A mask to either peer; to a peer that gets nothing goes one row of nothing.
        assert row_bytes <= len(sent) * size + 2 * VOCABULARY + 2 * size
        assert kind != "all" or row_bytes == whole_bytes + 2 * VOCABULARY


def test_what_is_not_finite_arrives() -> None:
    for by_rows, whole in ranks(3).run(not_finite):
        assert torch.equal(by_rows.isnan(), whole.isnan())
        assert torch.equal(by_rows.isinf(), whole.isinf())


def not_finite(rank: int) -> tuple[Tensor, Tensor]:
    runtime = start_cpu(1, 3, UNTIED.num_kv_heads)
    own = torch.zeros(VOCABULARY, HIDDEN)
    if rank == 1:
        own[2, 3], own[20, 0] = torch.nan, torch.inf
    axis = runtime.mesh.data
    by_rows = sum_touched_rows(own, runtime.collectives, axis, "rows", "scatter")
    return by_rows, runtime.collectives.reduce_scatter(own, axis, "whole")


def moved_in_a_step(rank: int, is_tied: bool) -> list[str]:
    """What travelled on the stream `scatter` of the data axis for the embedding's bucket."""
    shape = replace(UNTIED, tie_embeddings=is_tied)
    runtime, model, optimizer, _ = start(shape, 1, 2, in_background=True)
    bucket = next(
        index
        for index, one in enumerate(optimizer.buckets)
        if one.members[0].name == "embedding.weight"
    )
    runtime.spans.drain()
    loss_of(model, runtime, 0, 2, optimizer)
    optimizer.step(1e-2)
    optimizer.traffic.finish()
    names = [span.name for span in runtime.spans.drain()]
    return [name.rpartition(".")[2] for name in names if f"scatter_{bucket}." in name]


@pytest.mark.parametrize(
    ("is_tied", "expected"), [(False, ["all_gather", "permute"]), (True, ["reduce_scatter"])]
)
def test_a_step_sends_rows_unless_the_head_touches_all(is_tied: bool, expected: list[str]) -> None:
    assert ranks(2).run(moved_in_a_step, is_tied) == [expected, expected]

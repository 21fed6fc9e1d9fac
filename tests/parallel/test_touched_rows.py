"""Rows that no token touched stay where they are; sums have the bits of a reduce-scatter."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ndtrain.parallel.touched_rows import fetch_rows, sum_touched_rows
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


WANTED = {
    "some": {0: [[0, 23, 9], [9, 9, 16]], 1: [[23]], 2: []},
    "of another tensor rank too": {0: [-3, 30], 1: [VOCABULARY, 4], 2: [-1, 20, 12]},
    "none": {0: [], 1: [], 2: []},
}


def fetched(rank: int, kind: str) -> tuple[Tensor, int]:
    """The table of a rank that had its own rows alone, and the rows that it sent."""
    runtime = start_cpu(1, 3, UNTIED.num_kv_heads)
    values, part = torch.full((VOCABULARY, HIDDEN), torch.nan), VOCABULARY // 3
    own = slice(rank * part, (rank + 1) * part)
    values[own] = table()[own]
    rows = torch.tensor(WANTED[kind][rank], dtype=torch.int64)
    runtime.spans.drain()
    fetch_rows(values, rows, runtime.collectives, runtime.mesh.data, "rows", "gather")
    moved = [span for span in runtime.spans.drain() if span.name.endswith("permute")]
    return values, sum(span.num_bytes for span in moved) // (4 * HIDDEN)


def table() -> Tensor:
    return torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("kind", WANTED)
def test_the_rows_that_are_wanted_come_and_no_others(kind: str) -> None:
    part, num_sent = VOCABULARY // 3, 0
    for rank, (values, sent) in enumerate(ranks(3).run(fetched, kind)):
        flat = torch.tensor(WANTED[kind][rank], dtype=torch.int64).flatten().tolist()
        wanted = {row for row in flat if 0 <= row < VOCABULARY}
        there = wanted | set(range(rank * part, (rank + 1) * part))
        assert set((~values.isnan().all(1)).nonzero().flatten().tolist()) == there
        assert torch.equal(values[sorted(there)], table()[sorted(there)])
        num_sent += sent
    others = 3 * 2  # a row of nothing at the most for each pair
    assert num_sent <= others + sum(
        len({row for row in torch.tensor(rows).flatten().tolist() if 0 <= row < VOCABULARY})
        for rows in WANTED[kind].values()
    )


class Moved(NamedTuple):
    """For the embedding's bucket: in backward; for the next forward, and for the one after that."""

    backward: list[str]
    first: list[str]
    second: list[str]


def moved_in_a_step(rank: int, is_tied: bool) -> Moved:
    shape = replace(UNTIED, tie_embeddings=is_tied)
    runtime, model, optimizer, _ = start(shape, 1, 2, in_background=True)
    bucket = next(
        index
        for index, one in enumerate(optimizer.buckets)
        if one.members[0].name == "embedding.weight"
    )

    def moved(kind: str) -> list[str]:
        names = [span.name for span in runtime.spans.drain()]
        return [name for name in names if name.startswith(f"buckets.{kind}_{bucket}.")]

    moved("")
    loss_of(model, runtime, 0, 2, optimizer)
    optimizer.traffic.reduce()
    backward = [name.rpartition(".")[2] for name in moved("scatter")]
    optimizer.traffic.update(torch.tensor(1.0), lambda index: None)
    optimizer.traffic.arm()
    found = []
    for row in (0, 1):
        loss_of(model, runtime, row, 1)
        found.append([name.split(".", 2)[2] for name in moved("gather")])
    return Moved(backward, *found)


@pytest.mark.parametrize(
    ("is_tied", "backward", "forward"),
    [
        (False, ["all_gather", "permute"], ["all_gather", "rows.all_gather", "rows.permute"]),
        (True, ["reduce_scatter"], ["all_gather"]),
    ],
)
def test_rows_travel_unless_the_head_touches_all(
    is_tied: bool, backward: list[str], forward: list[str]
) -> None:
    """Once a step ahead of the whole, which is there for every forward after the first."""
    for moved in ranks(2).run(moved_in_a_step, is_tied):
        assert moved.backward == backward
        assert sorted(moved.first) == forward
        assert moved.second == []

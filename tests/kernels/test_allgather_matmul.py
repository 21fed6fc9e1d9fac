"""The fused all-gather: its result on every rank, and that ring and matmul can overlap."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from ndtrain.kernels.examples import make_calls, wanted_results

from ndtrain import nkisim
from ndtrain.nkisim.errors import NkiSimError
from tests.kernels.kernel_cases import BF16, kernel, mutant, relative_errors

NAME = "allgather_matmul"
BOUND = 3e-6


def run(
    sizes: dict[str, int], function: Any = None, cores: int | None = None, dtype: Any = np.float32
) -> tuple[list[nkisim.Run], list[float]]:
    """The run and the error of each rank."""
    calls = make_calls(NAME, sizes, dtype)
    runs = nkisim.run_ranks(function or kernel(NAME), calls, target="trn2", cores=cores)
    wanted = wanted_results(NAME, calls)
    errors = [relative_errors((r.outputs,), w)[0] for r, w in zip(runs, wanted, strict=True)]
    return runs, errors


@pytest.mark.parametrize("cores", [None, 2])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_rank_gets_all_shards(ranks: int, cores: int | None) -> None:
    _, errors = run({"ranks": ranks, "rows": 130, "hidden": 256, "features": 70}, cores=cores)
    assert max(errors) < BOUND


@pytest.mark.parametrize(("rows", "features"), [(1, 1), (128, 512), (513, 513), (127, 1025)])
def test_tile_edges(rows: int, features: int) -> None:
    _, errors = run({"ranks": 2, "rows": rows, "hidden": 128, "features": features})
    assert max(errors) < BOUND


def test_a_weight_that_does_not_fit_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    function = kernel(NAME)
    monkeypatch.setitem(function.function.__globals__, "RESIDENT_BYTES", 0)
    _, errors = run({"ranks": 2, "rows": 140, "hidden": 256, "features": 600}, function)
    assert max(errors) < BOUND


def test_bf16_rounds_once() -> None:
    _, errors = run({"ranks": 2, "rows": 128, "hidden": 512, "features": 128}, dtype=BF16)
    assert max(errors) < 2.0**-8


def test_the_matmuls_of_a_step_do_not_wait_for_its_transfer() -> None:
    """Between two transfers nothing reads what the first receives or writes what it sends."""
    runs, _ = run({"ranks": 4, "rows": 128, "hidden": 128, "features": 128})
    stream = list(runs[0].stream)
    transfers = [i.index for i in stream if i.opcode == "collective_permute_implicit"]
    assert len(transfers) == 3
    for begin, end in itertools.pairwise(transfers):
        sent = {o.tensor.ident for o in stream[begin].reads}
        received = {o.tensor.ident for o in stream[begin].writes}
        during = stream[begin + 1 : end]
        assert any(i.opcode == "nc_matmul" for i in during)
        for instruction in during:
            assert not received & {o.tensor.ident for o in instruction.reads}
            assert not sent & {o.tensor.ident for o in instruction.writes}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dsts_by_channel=[[ring[(step + 1) % 2]]]", "dsts_by_channel=[[here]]"),
        ("srcs_by_channel=[[here]]", "srcs_by_channel=[[ring[(step + 1) % 2]]]"),
        ("multiply_shard(y_tRF, here,", "multiply_shard(y_tRF, ring[(step + 1) % 2],"),
        ("iteration_id=step,", "iteration_id=0,"),
        ("if step < num_ranks - 1:", "if step < num_ranks - 2:"),
        ("scalar_offset=owner,", "scalar_offset=0,"),
    ],
    ids=[
        "one buffer sends and receives",
        "the empty buffer is sent",
        "the shard in flight is multiplied",
        "every shard is taken for our own",
        "the last transfer is missing",
        "every shard lands in the first place",
    ],
)
def test_mutants(old: str, new: str) -> None:
    function = mutant(NAME, NAME, old, new)
    try:
        _, errors = run({"ranks": 3, "rows": 128, "hidden": 128, "features": 64}, function)
    except (NkiSimError, TypeError):
        return
    assert not max(errors) < 1e-3


def test_a_rank_that_sends_too_little_is_a_deadlock() -> None:
    """The ranks disagree on the size of the ring."""
    calls = make_calls(NAME, {"ranks": 2, "rows": 128, "hidden": 128, "features": 64})
    calls[1] = ((*calls[1][0][:2], 3), {})
    with pytest.raises(NkiSimError):
        nkisim.run_ranks(kernel(NAME), calls, target="trn2")


@pytest.mark.parametrize(
    ("x", "w", "ranks", "message"),
    [
        ((128, 128), (256, 64), 2, "does not fit"),
        ((128, 100), (100, 64), 2, "multiple of 128"),
        ((128, 128), (128, 64), 1, "at least 2 ranks"),
        ((128, 16384), (16384, 64), 2, "a row of x"),
    ],
)
def test_bad_arguments_are_named(x: Any, w: Any, ranks: int, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        nkisim.run(kernel(NAME), np.zeros(x, BF16), np.zeros(w, BF16), ranks, target="trn2")

"""Refused collectives, launches, run-time indices, views and loops: one kernel for each limit."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ndtrain import nkisim
from ndtrain.nkisim import language
from ndtrain.nkisim.errors import ApiError, HardwareLimit, NkiSimError, RaceError

from .kernels import hbm, nisa, nki, nl, refuses, run, sbuf, t

with nkisim.as_nki():
    import nki.collectives as ncc

BF = "bfloat16"
ALONE = ncc.ReplicaGroup([[0]])
PAIR = ncc.ReplicaGroup([[0, 1]])
Case = tuple[str, Callable[[], Any], str]


def whole(case: Case) -> Any:
    """The case with the message quoted: it holds brackets."""
    name, body, words = case
    return pytest.param(body, re.escape(words), id=name)


COLLECTIVES: list[Case] = [
    (
        "a rank in no group",
        lambda: ncc.all_reduce([hbm((4, 4))], [hbm((4, 4))], ncc.ReplicaGroup([[1]]), nl.add),
        "all_reduce: rank 0 is in none of the replica groups [[1]]",
    ),
    (
        "two sources and one destination",
        lambda: ncc.all_reduce([hbm((4, 4)), hbm((4, 4))], [hbm((4, 4))], ALONE, nl.add),
        "all_reduce: `srcs` has 2 tensors, `dsts` has 1",
    ),
    (
        "no tensors",
        lambda: ncc.all_to_all([], [], ALONE, 0),
        "all_to_all: `srcs` has 0 tensors, `dsts` has 0",
    ),
    (
        "two tensors in SBUF",
        lambda: ncc.all_reduce([t(4, 4), t(4, 4)], [t(4, 4), t(4, 4)], ALONE, nl.add),
        "all_reduce: several tensors in one collective have to be in HBM",
    ),
    (
        "a cast",
        lambda: ncc.all_gather([hbm((4, 4))], [hbm((4, 4), BF)], ALONE, 0),
        "all_gather: source is float32, destination is bfloat16",
    ),
    (
        "SBUF in three dimensions",
        lambda: ncc.all_gather([t(4, 2, 2)], [t(4, 2, 2)], ALONE, 0),
        "all_gather: collectives on SBUF work on 2-D tensors",
    ),
    (
        "all_reduce into less",
        lambda: ncc.all_reduce([hbm((4, 4))], [hbm((2, 4))], ALONE, nl.add),
        "all_reduce: source [4, 4] and destination [2, 4] differ in size",
    ),
    (
        "all_to_all into less",
        lambda: ncc.all_to_all([hbm((4, 4))], [hbm((2, 4))], ALONE, 0),
        "all_to_all: source [4, 4] and destination [2, 4] differ in size",
    ),
    (
        "reduce_scatter into less",
        lambda: ncc.reduce_scatter([hbm((4, 4))], [hbm((2, 4))], ALONE, 0, nl.add),
        "reduce_scatter: source [4, 4] over 1 ranks does not make [2, 4]",
    ),
    (
        "permutation of two tensors",
        lambda: ncc.collective_permute(
            [hbm((4, 4)), hbm((4, 4))], [hbm((4, 4)), hbm((4, 4))], [(0, 0)]
        ),
        "collective_permute: `srcs` has 2 tensors; this collective moves one",
    ),
    (
        "permutation into less",
        lambda: ncc.collective_permute([hbm((4, 4))], [hbm((2, 4))], [(0, 0)]),
        "collective_permute: source [4, 4] and destination [2, 4] differ in size",
    ),
    (
        "permutation from a foreign rank",
        lambda: ncc.collective_permute([hbm((4, 4))], [hbm((4, 4))], [(1, 0)]),
        "collective_permute: `source_target_pairs` [(1, 0)] of 1 ranks",
    ),
    (
        "permutation from a negative rank",
        lambda: ncc.collective_permute([hbm((4, 4))], [hbm((4, 4))], [(-1, 0)]),
        "collective_permute: `source_target_pairs` [(-1, 0)] of 1 ranks",
    ),
    (
        "permutation twice to one rank",
        lambda: ncc.collective_permute([hbm((4, 4))], [hbm((4, 4))], [(0, 0), (0, 0)]),
        "collective_permute: `source_target_pairs` [(0, 0), (0, 0)] name a rank twice",
    ),
    (
        "a channel of two tensors",
        lambda: ncc.collective_permute_implicit(
            [[hbm((4, 4)), hbm((4, 4))]], [[hbm((4, 4))]], ALONE
        ),
        "collective_permute_implicit: `srcs_by_channel` has [2] tensors; each channel moves one",
    ),
    (
        "channels of one side",
        lambda: ncc.collective_permute_implicit(
            [[hbm((4, 4))], [hbm((4, 4))]], [[hbm((4, 4))]], ALONE, channel_ids=[0, 1]
        ),
        "collective_permute_implicit: sources and destinations have [2, 1] channels",
    ),
    (
        "no channel",
        lambda: ncc.collective_permute_implicit([], [], ALONE, channel_ids=[]),
        "collective_permute_implicit: `channel_ids` [] for 0 tensors",
    ),
    (
        "ring into less",
        lambda: ncc.collective_permute_implicit([[hbm((4, 4))]], [[hbm((2, 4))]], ALONE),
        "collective_permute_implicit: source [4, 4] and destination [2, 4] differ in size",
    ),
    (
        "reducing ring with unequal sources",
        lambda: ncc.collective_permute_implicit_reduce(
            [[hbm((4, 4))]], [[hbm((2, 4))]], [[hbm((4, 4))]], ALONE, nl.add
        ),
        "collective_permute_implicit_reduce: source [2, 4] and destination [4, 4] differ in size",
    ),
]


@pytest.mark.parametrize(("body", "words"), [whole(c) for c in COLLECTIVES])
def test_refused_collective(body: Callable[[], Any], words: str) -> None:
    refuses(body, "trn2", words)


def refused_on_two_ranks(kernel: Callable[[], Any], words: str) -> None:
    with pytest.raises(HardwareLimit, match=words) as caught:
        nkisim.run_ranks(
            kernel, [((), {})] * 2, target="trn2", options=nkisim.Options(check_python=False)
        )
    assert "/tests/nkisim/" in caught.value.where


def by_rank(first: Any, second: Any) -> Any:
    return second if ncc.rank_id().value else first


ON_TWO_RANKS: list[Case] = [
    (
        "all_to_all of three rows",
        lambda: ncc.all_to_all([hbm((3, 4))], [hbm((3, 4))], PAIR, 0),
        "all_to_all: source [3, 4] has no 2 equal parts along dim 0",
    ),
    (
        "reduce_scatter of three rows",
        lambda: ncc.reduce_scatter([hbm((3, 4))], [hbm((3, 2))], PAIR, 0, nl.add),
        "reduce_scatter: source [3, 4] has no 2 equal parts along dim 0",
    ),
    (
        "another shape on each rank",
        lambda: ncc.all_reduce([hbm((4, by_rank(4, 1)))], [hbm((4, by_rank(4, 1)))], PAIR, nl.add),
        "issue it differently: [4, 1] float32, op nl.add against [4, 4] float32, op nl.add",
    ),
    (
        "another operator on each rank",
        lambda: ncc.all_reduce([hbm((4, 4))], [hbm((4, 4))], PAIR, by_rank(nl.add, nl.maximum)),
        "issue it differently: [4, 4] float32, op nl.add against [4, 4] float32, op nl.maximum",
    ),
]


@pytest.mark.parametrize(("body", "words"), [whole(c) for c in ON_TWO_RANKS])
def test_refused_between_ranks(body: Callable[[], Any], words: str) -> None:
    refused_on_two_ranks(body, words)


def refused_on_two_cores(
    kernel: Callable[[], Any], words: str, kind: type[NkiSimError] = HardwareLimit
) -> None:
    with pytest.raises(kind, match=re.escape(words)) as caught:
        run(kernel, cores=2)
    assert "/tests/nkisim/" in caught.value.where


def test_cores_at_one_barrier_name_one_tensor() -> None:
    def kernel() -> None:
        both = hbm((4, 4), name="left"), hbm((4, 4), name="right")
        nisa.core_barrier(both[nl.program_id(0)], (0, 1))

    words = "core_barrier: the two cores name different tensors: `left` and `right`"
    refused_on_two_cores(kernel, words, RaceError)


def test_a_core_that_nobody_sends_to() -> None:
    def kernel() -> None:
        nisa.sendrecv(t(4, 4), t(4, 4), 1, 1 - nl.program_id(0), 3)

    refused_on_two_cores(kernel, "sendrecv: core 1 sends nothing to core 0 on pipe 3")


def test_a_core_that_sends_another_shape() -> None:
    def kernel() -> None:
        core = nl.program_id(0)
        shape = (4, 8) if core else (4, 4)
        nisa.sendrecv(t(*shape), t(*shape), 1 - core, 1 - core, 0)

    refused_on_two_cores(kernel, "sendrecv: core 0 sends [4, 4] float32, `dst` is [4, 8] float32")


def test_a_core_that_sends_another_type() -> None:
    def kernel() -> None:
        core = nl.program_id(0)
        dtype = BF if core else "float32"
        nisa.sendrecv(t(4, 4, dtype=dtype), t(4, 4, dtype=dtype), 1 - core, 1 - core, 0)

    refused_on_two_cores(kernel, "sendrecv: core 0 sends [4, 4] float32, `dst` is [4, 4] bfloat16")


@pytest.mark.parametrize("arithmetic", [True, False])
def test_a_result_outside_hbm(arithmetic: bool) -> None:
    options = nkisim.Options(arithmetic=arithmetic, check_python=False)
    with pytest.raises(HardwareLimit, match="returns `tile`, which is in sbuf") as caught:
        run(lambda: t(4, 4, name="tile"), options=options)
    assert "/tests/nkisim/" in caught.value.where


@pytest.mark.parametrize("grid", ["2", 2.0, (2, 1), ()])
def test_a_launch_grid_that_is_no_number_of_cores(grid: Any) -> None:
    @nki.jit
    def kernel() -> None:
        return None

    with pytest.raises(HardwareLimit, match=re.escape(f"kernel[{grid!r}]: the launch grid")):
        kernel[grid]


def test_an_unknown_target(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ApiError, match="unknown target 'trn9'"):
        run(lambda: None, target="trn9")
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn8")
    with pytest.raises(ApiError, match="unknown target 'trn8'") as caught:
        nkisim.run(lambda: None)
    assert caught.value.where == "NEURON_PLATFORM_TARGET_OVERRIDE"


def source() -> Any:
    """Eight rows in HBM, each of them defined."""
    return nl.zeros((8, 4), "float32", nl.shared_hbm, name="rows")


def moved(**how: Any) -> None:
    """A DMA from one row of `source`."""
    nisa.dma_copy(sbuf((1, 4)), source().ap([[4, 1], [1, 4]], **how))


def placeholder() -> Any:
    return nl.NkiTensor((4, 4), nl.float32, None)


VIEWS: list[Case] = [
    (
        "run-time index outside",
        lambda: moved(scalar_offset=nisa.register_alloc(8)),
        "dma_copy: run-time index 8 of `rows` is outside its dimension of 8",
    ),
    (
        "run-time index of two elements",
        lambda: moved(scalar_offset=t(1, 2, dtype="int32")),
        "dma_copy: a scalar index has shape [1, 2], not one element",
    ),
    (
        "two kinds of run-time index",
        lambda: moved(scalar_offset=nisa.register_alloc(0), vector_offset=t(1, 1, dtype="int32")),
        "ap: scalar_offset and vector_offset exclude each other",
    ),
    (
        "two run-time indices",
        lambda: source().select(0, nisa.register_alloc(0)).select(0, nisa.register_alloc(0)),
        "a tensor view can have only one run-time index",
    ),
    (
        "run-time partition",
        lambda: t(4, 4).select(0, nisa.register_alloc(0)),
        "select on the partition dimension needs a static index",
    ),
    (
        "vector_select on a tile",
        lambda: t(4, 4).vector_select(0, t(4, 1, dtype="int32")),
        "vector_select works on dim 0 of an HBM tensor",
    ),
    (
        "vector_select of a column",
        lambda: source().vector_select(1, t(4, 1, dtype="int32")),
        "vector_select works on dim 0 of an HBM tensor",
    ),
    (
        "other type after a run-time index",
        lambda: source().select(0, nisa.register_alloc(0)).view(nl.int32),
        "view: view(dtype) is not supported after a run-time index",
    ),
    (
        "no memory",
        lambda: nisa.dma_copy(placeholder(), source()),
        "this tensor is a signature placeholder and has no memory",
    ),
]


@pytest.mark.parametrize(("body", "words"), [whole(c) for c in VIEWS])
def test_refused_view(body: Callable[[], Any], words: str) -> None:
    refuses(body, "trn2", words)


def test_a_tensor_without_memory_has_a_name_for_messages_and_is_no_result() -> None:
    assert repr(placeholder()) == "NkiTensor([4, 4] float32 no memory)"
    with pytest.raises(HardwareLimit, match="signature placeholder"):
        run(placeholder)


LANGUAGE: list[Case] = [
    (
        "step of nothing",
        lambda: list(nl.dynamic_range(0, 4, 0)),
        "dynamic_range: `step` 0 of a dynamic loop is a positive compile-time integer",
    ),
    (
        "step in a register",
        lambda: list(nl.dynamic_range(0, 4, nisa.register_alloc(1))),
        "dynamic_range: `step` VirtualRegister(1) of a dynamic loop",
    ),
    (
        "loop body with a result",
        lambda: nl.fori_loop(0, 2, lambda i: 1),
        "fori_loop: the body of nl.fori_loop returns nothing",
    ),
    (
        "loop condition that is no register",
        lambda: nl.while_loop(1, lambda r: 0),
        "while_loop: the body of nl.while_loop returns the next condition register",
    ),
    (
        "second axis of the grid",
        lambda: nl.program_id(1),
        "program_id: axis 1: the launch grid has one axis",
    ),
    (
        "broadcast of four columns",
        lambda: nl.broadcast_to(t(4, 4), (4, 8)),
        "broadcast_to: a tile of shape (4, 4) does not broadcast to (4, 8)",
    ),
    (
        "broadcast into more dimensions",
        lambda: nl.broadcast_to(t(4, 4), (4, 4, 4)),
        "broadcast_to: a tile of shape (4, 4) does not broadcast to (4, 4, 4)",
    ),
    (
        "softmax over partitions",
        lambda: nl.softmax(t(4, 4), axis=0),
        "softmax: nl.softmax works on the free axis of a 2-D tile",
    ),
]


@pytest.mark.parametrize(("body", "words"), [whole(c) for c in LANGUAGE])
def test_refused_language(body: Callable[[], Any], words: str) -> None:
    refuses(body, "trn2", words)


def test_a_while_loop_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_MAX_ITERATIONS", 3)
    turns = np.zeros(1, int)

    def body(register: Any) -> Any:
        turns[0] += 1
        return register

    refuses(
        lambda: nl.while_loop(1, body),
        "trn2",
        "while_loop: nl.while_loop did not end within 3 iterations",
    )
    assert turns[0] == 3

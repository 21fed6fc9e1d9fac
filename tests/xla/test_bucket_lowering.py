"""The graph of ZeRO's step says what the schedule of its buckets says; mutants are found."""

import json

import pytest
from click.testing import CliRunner

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.cli.overlap import overlap
from ndtrain.overlap.bucket_lowering import compare_buckets
from ndtrain.overlap.hlo import HloGraph
from ndtrain.overlap.lowering import Comparison
from ndtrain.overlap.unfold import Unfolding
from ndtrain.parallel.data_parallel import BucketTraffic
from ndtrain.parallel.zero_hlo import TracedStep, bucket_lowering, narrow
from ndtrain.runtime.mesh import axis_lines
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.xla import XlaTrace, XlaTransport, trace_xla
from tests.xla.small_run import SHAPE

LAYOUTS = [(1, 2), (1, 4), (2, 2), (4, 2)]  # with 2 key/value heads tp=4 shares each


@pytest.mark.parametrize(("tp", "dp"), LAYOUTS)
def test_the_graph_of_every_rank_says_what_the_schedule_says(tp: int, dp: int) -> None:
    for rank in range(tp * dp):
        found = bucket_lowering(SHAPE, tp, dp, rank, in_background=True)
        assert found.problems == [], rank
        assert found.num_pairs > 0
        if tp == 1:
            assert found.given_up == []


def test_all_that_streams_would_run_side_by_side_is_free_on_one_tensor_rank() -> None:
    runtime = trace_xla(0, 1, 2, SHAPE.num_kv_heads)
    step = TracedStep.of(narrow(SHAPE, 1), runtime, in_background=True)
    num_buckets = len(step.optimizer.buckets)
    found = bucket_lowering(SHAPE, 1, 2, 0, in_background=True)
    # Each reduction beside all gradients after it, each gather beside all updates after it.
    assert num_buckets >= 4
    assert found.num_free == 2 * (num_buckets * (num_buckets - 1) // 2)


def test_tensor_ranks_give_up_what_waits_through_their_axis() -> None:
    """Backward's collectives stand behind the buckets that are complete before them."""
    found = bucket_lowering(SHAPE, 2, 2, 0, in_background=True)
    assert found.given_up
    assert all(moved.startswith("scatter_") for moved, _ in found.given_up)


def compared(
    in_background: bool = True,
    runtime: Runtime | None = None,
) -> Comparison:
    """Of a step on rank 1 of two, with its schedule."""
    runtime = runtime or trace_xla(1, 1, 2, SHAPE.num_kv_heads)
    step = TracedStep.of(narrow(SHAPE, 1), runtime, in_background)
    schedule = step.optimizer.traffic.schedule
    graph = HloGraph.read(step.hlo())
    return compare_buckets(schedule, graph, axis_lines(1, 2)["data"])


def test_the_harness_of_the_mutants_finds_nothing_without_one() -> None:
    assert compared().problems == []


def test_the_blocking_form_leaves_nothing_free() -> None:
    found = compared(in_background=False)
    assert found.problems == []
    assert found.num_free == 0


def test_a_blocking_form_that_does_not_block_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: what is no data is not in the graph."""
    monkeypatch.setattr(XlaTrace, "tie", lambda self, x, after: x)
    problems = compared(in_background=False).problems
    assert any("`scatter_0` does not wait for `gradients_" in problem for problem in problems)
    assert any("`gather_1` does not wait for `update_0`" in problem for problem in problems)


def test_gradients_that_wait_for_a_reduction_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a bucket's gradients are added up behind the reduction before it."""
    completed = BucketTraffic._completed

    def tying(self: BucketTraffic, index: int) -> None:
        completed(self, index)
        if index > 0:
            return
        assert self._reducing is not None
        reduced, trace = self._reducing.value("scatter_0"), self._runtime.trace
        assert trace is not None
        tied = trace.tie(self._buckets[1].gradients, [reduced])
        self._buckets[1].gradients.copy_(tied)

    monkeypatch.setattr(BucketTraffic, "_completed", tying)
    assert compared().problems == [
        "in the graph `gradients_1` waits for `scatter_0`, in the schedule not"
    ]


def test_gradients_that_come_behind_their_reduction_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mutant: a bucket counts as complete one parameter too early."""
    arm, early = BucketTraffic.arm, list[int]()

    def too_early(self: BucketTraffic) -> None:
        arm(self)
        several = [index for index, number in enumerate(self._missing) if number > 1]
        early.append(several[0])
        self._missing[several[0]] -= 1

    monkeypatch.setattr(BucketTraffic, "arm", too_early)
    problems = compared().problems
    lost = f"`scatter_{early[0]}` does not wait for `gradients_{early[0]}`"
    assert any(lost in problem for problem in problems)


def test_a_weight_that_is_gathered_before_its_update_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = Unfolding.done

    def stale(self: Unfolding, name: str, value, end=None) -> None:  # type: ignore[no-untyped-def]
        done(self, name, value.new_zeros(value.shape) if name == "update_1" else value, end)

    monkeypatch.setattr(Unfolding, "done", stale)
    problems = compared().problems
    assert "in the graph `gather_1` does not wait for `update_1`, in the schedule it does" in (
        problems
    )


class Doubled(XlaTransport):
    """Gathers once more than asked for."""

    def all_gather(self, x, axis, out):  # type: ignore[no-untyped-def]
        again = super().all_gather(x, axis, None)[: x.shape[0]]
        return super().all_gather(again, axis, out)


def test_needless_communication_is_found() -> None:
    runtime = trace_xla(0, 1, 2, SHAPE.num_kv_heads)
    runtime.collectives.transport = Doubled(axis_lines(1, 2))
    problems = compared(runtime=runtime).problems
    assert any("is 2 all-gather in the graph" in problem for problem in problems)


def test_the_command_counts_the_pairs_of_the_buckets() -> None:
    grid = ["parallel.tp=1", "parallel.dp=auto", "train.global_batch_size=8", "--world-size", "2"]
    arguments = ["verify", "quickstart", *grid, "--mode", "bulk", "--hlo", "--json"]
    result = CliRunner().invoke(overlap, arguments)
    rows = json.loads(result.output)["schedules"]
    (buckets,) = (row for row in rows if row["operation"] == "buckets")
    assert buckets["problems"] == []
    assert buckets["free"] > 0
    assert buckets["given_up"] == 0

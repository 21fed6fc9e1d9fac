"""All ranks trace the same graph; what differs between them is data. Mutants are found.

A compiler keeps what it has compiled by the graph's hash: one text is compiled once.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.models.qwen3.shape import Shape
from ndtrain.overlap.collective_matmul import MODES, Mode
from ndtrain.overlap.modes import Modes
from ndtrain.parallel.recompute import Recompute
from ndtrain.parallel.zero_hlo import TracedStep, narrow
from ndtrain.parallel.zero_traced import TracedAdamW
from ndtrain.runtime.place import Place, TracedPlace
from ndtrain.runtime.xla import hlo_text, trace_xla
from tests.xla.small_run import SHAPE

LAYOUTS = [(2, 2, 4), (8, 1, 4), (4, 2, 2)]  # tp, dp, key/value heads: twice they are shared

Recording = Callable[[TracedStep], list[Tensor]]


def step(under_test: TracedStep) -> list[Tensor]:
    return under_test.record()


def evaluation(under_test: TracedStep) -> list[Tensor]:
    tp, device = under_test.runtime.mesh.tensor.size, under_test.runtime.device
    tokens_BS = torch.zeros(1, 2 * tp, dtype=torch.int64, device=device)
    under_test.optimizer.begin()
    with torch.no_grad():
        return [under_test.model.loss(tokens_BS, tokens_BS, tokens_BS.float())]


def initial_state(under_test: TracedStep) -> list[Tensor]:
    left = []
    for bucket in under_test.optimizer.buckets:
        left += [bucket.values, bucket.master, bucket.gradients]
        left += under_test.optimizer.state_of(bucket).values()
    return left


def graph(
    rank: int,
    tp: int,
    dp: int,
    num_kv_heads: int,
    mode: Mode,
    recording: Recording = step,
    dtype: torch.dtype = torch.float32,
    recomputed: Recompute = "none",
) -> str:
    """The text of one rank's graph. torch-xla counts scopes as long as the process lives."""
    shape: Shape = replace(SHAPE, num_heads=8, num_kv_heads=num_kv_heads)
    runtime = trace_xla(rank, tp, dp, num_kv_heads)
    modes, in_background = Modes.all(mode), mode != "off"
    under_test = TracedStep.of(narrow(shape, tp), runtime, in_background, modes, dtype, recomputed)
    text = hlo_text(recording(under_test))
    return re.sub(r'\.\d+(?=[/"])', "", text)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("tp", "dp", "num_kv_heads"), LAYOUTS)
def test_every_rank_has_the_graph_of_the_first(
    tp: int, dp: int, num_kv_heads: int, mode: Mode
) -> None:
    of_rank = functools.partial(graph, tp=tp, dp=dp, num_kv_heads=num_kv_heads, mode=mode)
    first = of_rank(0)
    assert "all-gather" in first
    for rank in range(1, tp * dp):
        assert of_rank(rank) == first, rank


@pytest.mark.parametrize("recording", [step, evaluation, initial_state])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_it_is_in_either_dtype_and_for_all_that_a_run_compiles(
    recording: Recording, dtype: torch.dtype
) -> None:
    first, *others = (graph(rank, 4, 2, 2, "ring2", recording, dtype) for rank in (0, 1, 3, 6))
    assert all(other == first for other in others)


@pytest.mark.parametrize("recomputed", ["selective", "full"])
def test_so_it_is_with_recomputation(recomputed: Recompute) -> None:
    first, *others = (graph(rank, 4, 2, 2, "ring", recomputed=recomputed) for rank in (0, 1, 3, 6))
    assert "opt-barrier" in first
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("what", "number", "rank", "mode"),
    [
        ("from_first", Place.from_first, 1, "off"),  # rows of the vocabulary
        ("counted", Place.counted, 1, "ring"),
        ("is_data", Place.is_data, 2, "off"),  # own ranges of buckets
    ],
)
def test_a_number_in_place_of_data_makes_another_graph(
    what: str, number: object, rank: int, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rank differs from the first in its place on one axis alone."""
    monkeypatch.setattr(TracedPlace, what, number)
    assert graph(rank, 2, 2, 4, mode) != graph(0, 2, 2, 4, mode)


def test_norms_of_the_own_ranges_make_another_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a constant for each stretch that ranks share, wherever it begins."""

    def by_segments(self: TracedAdamW, loss: Tensor) -> Tensor:
        total = 0.0 * loss.sum().float().reshape(1)
        for bucket in self.buckets:
            for start, stop, num_replicas in bucket.norm_segments(self.shards):
                square = bucket.own_gradient[start:stop].norm().float().square()
                total = total + square / num_replicas
        return total

    monkeypatch.setattr(TracedAdamW, "_recorded_norm", by_segments)
    assert graph(4, 4, 2, 2, "off") != graph(0, 4, 2, 2, "off")

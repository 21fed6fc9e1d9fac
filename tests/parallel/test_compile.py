"""torch.compile of the local modules, under all that a step does around them.

By the stand-in of Neuron's backend, which runs anywhere, and by inductor, which needs a C++
compiler and rounds differently from eager code.
"""

import shutil
from typing import NamedTuple

import pytest
import torch
import torch._inductor.config
from torch import Tensor

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.overlap.modes import Modes
from ndtrain.parallel.apply import materialize, parallelize
from ndtrain.parallel.compile import compile_local_modules
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.recompute import recompute
from ndtrain.runtime.runtime import start_cpu
from tests.parallel.small import SEQUENCE, SHAPE, batch
from tests.parallel.stand_in_backend import neuron_backend
from tests.rank_pool import ranks
from tests.runtime.streamed_run import STEPS, Case, Outcome, run

NUM_REGIONS = 3  # norm, attention core, SwiGLU: layers share their graphs
MICRO_BATCHES = 2

BASE = Case(2, 1, "chunk", torch.float64, attention="reference")
CASES = [
    BASE._replace(offloads=True, recompute="selective"),
    *(
        pytest.param(case, marks=pytest.mark.slow)
        for case in (
            BASE,
            BASE._replace(tp=1, dp=2, mode="bulk", offloads=True, recompute="selective"),
            BASE._replace(recompute="full"),
            BASE._replace(mode="bulk", offloads=True),
            BASE._replace(tp=1, dp=2, recompute="full", offloads=True),
            BASE._replace(mode="off", recompute="selective"),
        )
    ),
]


class Compiled(NamedTuple):
    outcome: Outcome
    num_compiled: int
    num_runs: int


def compiled_run(rank: int, case: Case) -> Compiled:
    with neuron_backend() as backend:
        outcome = run(rank, case._replace(compiles=True), True)
        return Compiled(outcome, backend.num_compiled, backend.num_runs)


@pytest.mark.skipif(
    torch.__version__ < (2, 13), reason="torch 2.9 compiles anew at each call inside a watch"
)
@pytest.mark.parametrize("case", CASES)
def test_a_compiled_run_has_the_eager_curve_and_its_streams_no_race(case: Case) -> None:
    """In fp64, where the order of a sum is all that differs: a thousandth of fp32's rounding."""
    pool = ranks(2)
    eager, compiled = pool.run(run, case, False), pool.run(compiled_run, case)
    for plain, ours in zip(eager, compiled, strict=True):
        assert ours.outcome.races == []
        assert bool(ours.outcome.hidden) == (case.mode != "off")
        assert ours.num_compiled == 2 * NUM_REGIONS  # forward and backward, in the first step
        assert ours.num_runs >= 2 * (4 * SHAPE.num_layers + 1) * MICRO_BATCHES * STEPS
        torch.testing.assert_close(ours.outcome.losses, plain.losses, rtol=1e-11, atol=0)
        for name, value in plain.parameters.items():
            torch.testing.assert_close(
                ours.outcome.parameters[name], value, rtol=1e-9, atol=1e-10, msg=name
            )


def losses(model: Qwen3, first_row: int) -> float:
    tokens, targets, starts = batch(first_row, SHAPE)
    weights = torch.full(targets.shape, 1 / targets.numel())
    return model.loss(tokens, targets, weights, None, starts).item()


def test_an_evaluation_is_a_graph_more_and_new_data_are_none() -> None:
    runtime = start_cpu(1, 1, SHAPE.num_kv_heads)
    with torch.device("meta"):
        model = Qwen3(SHAPE, "reference")
    materialize(model, parallelize(model, runtime), RandomWeights(SHAPE, seed=3), torch.float32)
    with neuron_backend() as backend:
        compile_local_modules(model, "neuron")
        with torch.no_grad():
            first = losses(model, 0)
            assert backend.num_compiled == NUM_REGIONS
            again = [losses(model, row) for row in (0, 1, 2)]
        assert again[0] == first
        assert len(set(again)) == 3
        assert backend.num_compiled == NUM_REGIONS
        tokens, targets, starts = batch(0, SHAPE)
        for length in (SEQUENCE, SEQUENCE // 2):
            rows = (x[:, :length] for x in (tokens, targets))
            model.loss(*rows, torch.ones(4, length), None, starts[:, :length]).backward()
        assert backend.num_compiled == (1 + 2 + 2) * NUM_REGIONS  # another shape is another graph


class Gradients(NamedTuple):
    values: dict[str, Tensor]
    names: set[str]  # of what ran on the streams


def gradients(rank: int, compiles: bool, serial: bool, mode: str) -> Gradients:
    runtime = start_cpu(2, 1, SHAPE.num_kv_heads)
    with torch.device("meta"):
        model = Qwen3(SHAPE)
    shards = parallelize(model, runtime, Modes.all("ring", serial))
    materialize(model, shards, RandomWeights(SHAPE, seed=3), torch.float32)
    if compiles:
        torch._dynamo.reset()
        torch._inductor.config.compile_threads = 1  # no pool of processes for a few graphs
        compile_local_modules(model, "inductor")
    recompute(model, mode)  # type: ignore[arg-type]
    tokens, targets, starts = batch(0, SHAPE)
    weights = torch.full(targets.shape, 1 / targets.numel())
    runtime.spans.drain()
    loss = model.loss(tokens, targets, weights, None, starts)
    loss.backward()
    names = {span.name for span in runtime.spans.drain() if span.track in ("gather", "scatter")}
    found = {name: value.grad for name, value in model.named_parameters()}
    return Gradients({"loss": loss.detach(), **found}, names)  # type: ignore[dict-item]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "full"])
def test_inductor_agrees_with_eager_code_and_streams_change_no_bit_of_it(mode: str) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    pool = ranks(2)
    eager = pool.run(gradients, False, False, mode)
    compiled = pool.run(gradients, True, False, mode)
    serial = pool.run(gradients, True, True, mode)
    for plain, ours, one_by_one in zip(eager, compiled, serial, strict=True):
        assert ours.names == plain.names  # every schedule ran, hop by hop
        assert any("hop_1" in name for name in ours.names)
        for name, value in plain.values.items():
            torch.testing.assert_close(ours.values[name], value, rtol=1e-4, atol=1e-6)
            assert torch.equal(ours.values[name], one_by_one.values[name]), name

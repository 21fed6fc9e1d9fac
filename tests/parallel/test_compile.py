"""torch.compile of a module with overlap in it: local compute is compiled, schedules run on.

Where no compiler is installed there is nothing to test. The compiled code may round differently
from the eager one; concurrent and serial streams have to give it the same bits.
"""

import shutil

import pytest
import torch
import torch._inductor.config
from torch import Tensor
from torch._dynamo.utils import counters

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.overlap.modes import Modes
from ndtrain.parallel.apply import materialize, parallelize
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.recompute import recompute
from ndtrain.runtime.runtime import start_cpu
from tests.parallel.small import SHAPE, batch
from tests.rank_pool import ranks

Outcome = tuple[dict[str, Tensor], set[str], int]


def gradients(rank: int, compiles: bool, serial: bool, mode: str) -> Outcome:
    """Loss and gradients of this rank, names of what ran on the streams, number of graphs."""
    runtime = start_cpu(2, 1, SHAPE.num_kv_heads)
    with torch.device("meta"):
        model = Qwen3(SHAPE)
    shards = parallelize(model, runtime, Modes.all("ring", serial))
    materialize(model, shards, RandomWeights(SHAPE, seed=3), torch.float32)
    recompute(model, mode)  # type: ignore[arg-type]
    if compiles:
        torch._dynamo.reset()
        counters.clear()
        torch._inductor.config.compile_threads = 1  # no pool of processes for two small graphs
        model.layers[1].mlp.compile()
    tokens, targets, starts = batch(0, SHAPE)
    weights = torch.full(targets.shape, 1 / targets.numel())
    runtime.spans.drain()
    loss = model.loss(tokens, targets, weights, None, starts)
    loss.backward()
    names = {span.name for span in runtime.spans.drain() if span.track in ("gather", "scatter")}
    found = {name: value.grad for name, value in model.named_parameters()}
    num_graphs = counters["stats"]["unique_graphs"] if compiles else 0
    return {"loss": loss.detach(), **found}, names, num_graphs  # type: ignore[dict-item]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "full"])
def test_compiled_blocks_overlap_and_agree_with_eager_ones(mode: str) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    pool = ranks(2)
    eager = pool.run(gradients, False, False, mode)
    compiled = pool.run(gradients, True, False, mode)
    serial = pool.run(gradients, True, True, mode)
    for one, two, three in zip(eager, compiled, serial, strict=True):
        (plain, names, _), (ours, same, num_graphs), (one_by_one, *_) = one, two, three
        assert num_graphs > 0
        assert same == names  # every schedule ran, hop by hop
        assert any("hop_1" in name for name in names)
        for name, value in plain.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6)
            assert torch.equal(ours[name], one_by_one[name]), name

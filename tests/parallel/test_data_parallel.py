"""Buckets that travel behind compute give the bits of those that do not, and do travel there."""

import threading
from dataclasses import replace

import pytest
import torch

from ndtrain.config.schema import Optim
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.observe.overlap_figures import Tallying
from ndtrain.overlap.modes import BLOCKING
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.runtime.mesh import Mesh
from tests.overlap.lone import lone
from tests.parallel.small import SHAPE, UNTIED, batch, loss_of, start, train
from tests.rank_pool import ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "tp", "dp", "mode"),
    [(SHAPE, 1, 2, "none"), (UNTIED, 1, 2, "full"), (SHAPE, 2, 2, "none")],
)
def test_background_equals_blocking_bit_for_bit(shape, tp, dp, mode, dtype):
    pool = ranks(tp * dp)
    blocking = pool.run(train, shape, tp, dp, 5, mode, dtype, 2, False)
    behind = pool.run(train, shape, tp, dp, 5, mode, dtype, 2, True)
    for before, after in zip(blocking, behind, strict=True):
        assert before["losses"] == after["losses"]
        assert before["norms"] == after["norms"]
        for name, value in before["parameters"].items():
            assert torch.equal(value, after["parameters"][name]), name


def test_one_node_at_a_time_they_have_the_same_bits() -> None:
    pool, arguments = ranks(2), (UNTIED, 1, 2, 5, "none", torch.float32, 2, True, BLOCKING)
    for ours, serial in zip(
        pool.run(train, *arguments), pool.run(train, *arguments, True), strict=True
    ):
        assert ours["losses"] == serial["losses"]
        for name, value in ours["parameters"].items():
            assert torch.equal(value, serial["parameters"][name]), name


def hidden_bytes_of_a_step(rank: int, serial: bool) -> float:
    runtime, model, optimizer, _ = start(SHAPE, 1, 2, in_background=True, serial=serial)
    loss_of(model, runtime, 0, 1, optimizer)
    optimizer.step(1e-2)
    optimizer.traffic.finish()
    tallies = Tallying().step(runtime.spans.drain())
    assert tallies["gradient_buckets"].comm_bytes > 0
    return sum(tallies[name].hidden_bytes for name in ("gradient_buckets", "parameter_gathers"))


def test_one_node_at_a_time_nothing_moves_beside_compute() -> None:
    assert ranks(2).run(hidden_bytes_of_a_step, True) == [0.0, 0.0]
    assert all(hidden > 0 for hidden in ranks(2).run(hidden_bytes_of_a_step, False))


def order_of_events(rank: int) -> tuple[list[str], list[str]]:
    """Buckets under way when backward has ended, and after the update."""
    runtime, model, optimizer, _ = start(SHAPE, 1, 2, in_background=True)
    loss_of(model, runtime, 0, 1, optimizer)
    reducing = optimizer.traffic.under_way
    optimizer.step(1e-2)
    return reducing, optimizer.traffic.under_way


def test_reductions_start_inside_backward_and_gathers_outlive_the_step():
    (reducing, gathering), other = ranks(2).run(order_of_events)
    assert (reducing, gathering) == other
    assert len(reducing) >= 4
    assert all(name.startswith("scatter_") for name in reducing)
    num_buckets = len(gathering)
    assert gathering == [f"gather_{index}" for index in reversed(range(num_buckets))]


@pytest.mark.parametrize("last", ["layers.0.mlp.down.weight", "embedding.weight"])
def test_a_module_waits_for_its_own_weights_alone(last: str) -> None:
    """What arrives only after the first product has begun: the weights that a block needs last, and
    the rows of the embedding that no token needs."""
    first = "layers.0.attention.qkv.product"
    has_begun, late = threading.Event(), []

    def before(name: str) -> None:
        if name in late and not has_begun.wait(60.0):
            raise TimeoutError(f"{first} waits for {last}")

    def before_compute(name: str) -> None:
        if name == first:
            has_begun.set()

    runtime = replace(lone(1, 0, before, before_compute), mesh=Mesh.place(0, tp=1, dp=2))
    with torch.device("meta"):
        model = Qwen3(UNTIED)
    shards = parallelize(model, runtime)
    weights, settings = RandomWeights(UNTIED, seed=3), Optim(lr=1e-2)
    optimizer = ShardedAdamW(
        model, shards, weights, runtime, settings, torch.float32, bucket_bytes=4, in_background=True
    )
    tokens, targets, starts = batch(0, UNTIED)
    share = torch.full(targets.shape, 1 / targets.numel())
    model.loss(tokens, targets, share, None, starts).backward()
    late += [
        f"buckets.gather_{index}"
        for index, bucket in enumerate(optimizer.buckets)
        if last in {member.name for member in bucket.members}
    ]
    has_begun.clear()
    optimizer.step(1e-2)
    model.loss(tokens, targets, share, None, starts)
    assert has_begun.is_set()
    assert optimizer.traffic.under_way == []

"""Non-finite gradients never reach the weights; every rank learns of them."""

import pytest
import torch

from ndtrain.core.errors import Unhealthy
from tests.parallel.small import SHAPE, loss_of, start
from tests.rank_pool import ranks


def poisoned(rank: int, tp: int, dp: int, value: float) -> tuple[bool, bool]:
    """One rank's gradient of one parameter has one bad element."""
    runtime, model, optimizer, _ = start(SHAPE, tp, dp)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss_of(model, runtime, step=0)
    if rank == tp * dp - 1:
        optimizer.buckets[0].gradients[5] = value
    try:
        optimizer.step(1e-2)
        refused = False
    except Unhealthy:
        refused = True
    unchanged = all(torch.equal(before[name], p) for name, p in model.named_parameters())
    return refused, unchanged


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("tp", "dp"), [(2, 1), (1, 2), (2, 2)])
def test_a_bad_gradient_on_one_rank_stops_all_before_the_update(tp, dp, value):
    assert ranks(tp * dp).run(poisoned, tp, dp, value) == [(True, True)] * (tp * dp)


def clipped(rank: int, clip_norm: float | None) -> tuple[float, float]:
    runtime, model, optimizer, _ = start(SHAPE, 2, 1)
    optimizer.clip_norm = clip_norm
    loss_of(model, runtime, step=0)
    seen = {}
    seen["square"] = 0.0
    for bucket, update in zip(optimizer.buckets, optimizer._updates, strict=True):

        def spy(bucket=bucket, step=update.step) -> None:
            seen["square"] += float(bucket.master.grad.square().sum())
            step()

        update.step = spy
    return optimizer.step(1e-2), seen["square"]


def test_clipping_scales_to_the_norm():
    whole = ranks(2).run(clipped, None)
    cut = ranks(2).run(clipped, 0.01)
    for (norm, square), (same_norm, cut_square) in zip(whole, cut, strict=True):
        assert same_norm == norm > 0.01
        assert cut_square == pytest.approx(square * (0.01 / norm) ** 2, rel=1e-5)

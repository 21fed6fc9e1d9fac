"""Buckets that travel behind compute give the bits of those that do not, and do travel there."""

import pytest
import torch

from tests.parallel.small import SHAPE, UNTIED, loss_of, start, train
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

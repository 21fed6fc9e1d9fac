"""What recomputation runs again, counted in collectives."""

from collections import Counter

import pytest

from tests.parallel.small import SHAPE, loss_of, start
from tests.rank_pool import ranks


def collectives(rank: int, mode: str) -> Counter:
    runtime, model, _, _ = start(SHAPE, 2, 1, mode=mode)
    loss_of(model, runtime, step=0)
    return Counter(
        span.name.removesuffix(".reduce_scatter").removesuffix(".scatter")
        for span in runtime.spans.drain()
        if span.track in ("gather", "scatter")
    )


@pytest.mark.parametrize(
    ("mode", "forward_runs"),
    [("none", (1, 1, 1)), ("selective", (1, 1, 1)), ("full", (2, 2, 1))],
)
def test_how_often_the_forward_collectives_of_a_block_run(mode, forward_runs):
    """Whole blocks gather and reduce again, all but the last reduce-scatter, which nobody needs."""
    for counts in ranks(2).run(collectives, mode):
        for layer in range(SHAPE.num_layers):
            gathers = counts[f"layers.{layer}.mlp.gate_up.gather.all_gather"]
            inner = counts[f"layers.{layer}.attention.o"]
            last = counts[f"layers.{layer}.mlp.down"]
            assert (gathers, inner, last) == forward_runs

"""Training whose streams are late at random has the bits of training one node at a time.

50 steps of two micro-batches, another seed of delays in each: linears, head, embedding, the buckets
of ZeRO and offloaded activations under a hundred seeds.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ndtrain.core.spans import Span
from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.modes import Modes
from ndtrain.parallel import offload
from ndtrain.parallel.data_parallel import BucketTraffic
from ndtrain.runtime.runtime import start_cpu
from tests.overlap.delays import Delays, late_runtime
from tests.parallel.small import SHAPE, loss_of, start
from tests.rank_pool import ranks

STEPS, MICRO_BATCHES = 50, 2
LATE_GATHER_S = 0.02  # longer than it takes from the update to the embedding
DELAY_S = 0.001  # a product of these shapes takes some 10 us


class Outcome(NamedTuple):
    values: dict[str, Tensor]  # losses, norms and the parameters at the end
    num_seeds: int
    num_orders: int  # in which the first micro-batches' operations ended


def train(rank: int, tp: int, dp: int, mode: Mode, offloads: bool, is_late: bool) -> Outcome:
    runtime = start_cpu(tp, dp, SHAPE.num_kv_heads)
    spans, delays, seeds = runtime.spans, Delays(rank, 0, DELAY_S), itertools.count()
    if is_late:
        runtime = late_runtime(runtime, delays)
    modes = Modes.all(mode, serial=not is_late)
    _, model, optimizer, _ = start(
        SHAPE, tp, dp, in_background=is_late, modes=modes, runtime=runtime
    )
    offload.SMALLEST_BYTES = 512
    if offloads and is_late:
        offload.offload_activations(model, runtime)
    orders: list[tuple[str, ...]] = []

    def begin(*_: object) -> None:
        orders.append(order(spans.drain()))
        delays.begin(next(seeds))

    model.embedding.register_forward_pre_hook(begin)
    values = {}
    for step in range(STEPS):
        loss = loss_of(model, runtime, step, MICRO_BATCHES, optimizer)
        values[f"loss {step}"] = torch.tensor(loss)
        values[f"norm {step}"] = torch.tensor(optimizer.step(1e-2))
    optimizer.traffic.finish()
    offload.SMALLEST_BYTES = 16 * 1024
    values |= {name: value.detach().clone() for name, value in model.named_parameters()}
    # Each was drained as the next micro-batch began; before the first of all there is nothing.
    return Outcome(values, next(seeds), len(set(orders[1::MICRO_BATCHES])))


def order(spans: list[Span]) -> tuple[str, ...]:
    return tuple(span.name for span in sorted(spans, key=lambda span: span.stop_ns))


def different(outcomes: list[Outcome], others: list[Outcome]) -> Iterator[str]:
    for one, other in zip(outcomes, others, strict=True):
        assert one.values.keys() == other.values.keys()
        yield from (
            name for name, value in one.values.items() if not torch.equal(value, other.values[name])
        )


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "offloads"), [("ring", False), ("chunk", True)])
def test_fifty_steps_under_a_hundred_seeds_have_the_bits_of_serial_ones(mode, offloads):
    pool = ranks(4)
    serial = pool.run(train, 2, 2, mode, False, False)
    late = pool.run(train, 2, 2, mode, offloads, True)
    assert list(different(late, serial)) == []
    for one, other in zip(serial, late, strict=True):
        assert one.num_seeds == other.num_seeds == STEPS * MICRO_BATCHES
        assert one.num_orders == 1
        assert other.num_orders > 1


def losses_of_two_steps(rank: int, waits: bool) -> list[float]:
    """waits: whether forward waits for the weights that are gathered."""
    with pytest.MonkeyPatch.context() as patch:
        if not waits:
            patch.setattr(BucketTraffic, "_wait", lambda self, index: None)
        late = late_runtime(start_cpu(1, 2, 1), Delays(rank, 2, LATE_GATHER_S), "gather")
        _, model, optimizer, _ = start(SHAPE, 1, 2, in_background=True, runtime=late)
        losses = []
        for step in range(2):
            losses.append(loss_of(model, late, step, 1, optimizer))
            optimizer.step(1e-2)
    optimizer.traffic.finish()
    return losses


@pytest.mark.slow
def test_a_forward_that_does_not_wait_for_its_weights_shows():
    """It is the embedding that needs the wait: later gathers stand behind it on their stream."""
    pool = ranks(2)
    right, wrong = pool.run(losses_of_two_steps, True), pool.run(losses_of_two_steps, False)
    for (first, second), (same, stale) in zip(right, wrong, strict=True):
        assert first == same
        assert second != stale

"""Interleaved rounds: every contestant once a round, in an order that rotates.

What disturbs the machine for a while then disturbs all contestants, and a ratio of one round
compares neighbours in time. Medians of whole runs do not have that property.
"""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

import torch
import torch.distributed as dist

from ndtrain.bench.contestant import Contestant
from ndtrain.bench.workload import Workload


@dataclass(frozen=True, slots=True)
class Rounds:
    """step_ms[name][round]: of the slowest rank. losses[name]: None where it means nothing."""

    step_ms: dict[str, list[float]]
    losses: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Spread:
    low: float  # first quartile
    median: float
    high: float  # third quartile

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(low, median(values), high)


def ratio_of_rounds(rounds: Rounds, above: Sequence[str], below: str) -> Spread:
    """Times of `above`, added up, over the time of `below`, round by round."""
    sums = map(sum, zip(*(rounds.step_ms[name] for name in above), strict=True))
    return Spread.of([a / b for a, b in zip(sums, rounds.step_ms[below], strict=True)])


def run_rounds(contestants: Sequence[Contestant], workload: Workload, num_rounds: int) -> Rounds:
    """On every rank of the process group, with the same arguments. One round is not counted."""
    for contestant in contestants:
        contestant.setup(workload)
    step_ms: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    losses: dict[str, float | None] = {}
    with _little_garbage():
        for number in range(num_rounds + 1):
            first = number % len(contestants)
            for contestant in [*contestants[first:], *contestants[:first]]:
                elapsed_ms, loss = _timed_step(contestant)
                losses[contestant.name] = loss if contestant.has_loss else None
                if number > 0:
                    step_ms[contestant.name].append(elapsed_ms)
    return Rounds(step_ms, losses)


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Keeps the objects of modules and models out of the garbage collector's walks."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _timed_step(contestant: Contestant) -> tuple[float, float]:
    """Milliseconds of the slowest rank from a common start, and the loss."""
    # Garbage of one contestant must not be collected in another's time.
    gc.collect()
    with contestant.turn():
        dist.barrier()
        start_ns = time.perf_counter_ns()
        loss = contestant.step()
        elapsed_ms = torch.tensor((time.perf_counter_ns() - start_ns) / 1e6, dtype=torch.float64)
    assert contestant.uses_all_ranks or dist.get_rank() == 0 or math.isnan(loss)
    dist.all_reduce(elapsed_ms, op=dist.ReduceOp.MAX)
    return elapsed_ms.item(), loss

"""What overlap did, step by step and in the whole run; an overlap that hides nothing ends it.

overlap = overlap_report(config, decision, optimizer)
row = overlap.row(spans)                    # of this rank, for an all-gather
record["overlap"] = overlap.record(mean)    # of the ranks' mean row; raises UserError
overlap.summary()                           # lines for people, at the end of the run
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any

from ndtrain.config.overlapping import must_hide_buckets
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError
from ndtrain.core.spans import Span, SpanRecorder
from ndtrain.observe.overlap_figures import (
    LINEARS,
    NUM_FIELDS,
    OPERATIONS,
    STEP,
    Tallies,
    Tally,
    Tallying,
    overlap_figures,
)
from ndtrain.overlap.gate import Decision
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.runtime.arrivals import Arrivals, can_count_arrivals

CHECKED_STEPS = 3  # enough that a moment without progress is not taken for none at all
# Bytes that a rank sends in a step. What is less comes so fast that no compute need be beside it.
TELLING_BYTES = 2**20
MOST_RANKS = 16  # whose arrivals are counted: every rank has connections to every other
HEADERS = 0.01  # of the bytes, that arrive although nobody has asked for them yet
BUCKETS = ("gradient_buckets", "parameter_gathers")
_ORDER = (*OPERATIONS, STEP)
ROW_SIZE = len(_ORDER) * NUM_FIELDS


class OverlapCheck:
    """Raises UserError if overlap was decided and nothing moves behind compute.

    Active is what moved bytes while compute ran; that nothing did is never silent. That transfers
    were under way is not enough where the kernel counts what arrives (`runtime/arrivals.py`).
    """

    def __init__(self, key: str, operations: Sequence[str], besides: str = "") -> None:
        """key: of the configuration, that asked for it. besides: what else would have to be set."""
        self._key, self._operations, self._besides = key, operations, besides
        self._num_steps = 0
        self._hidden_bytes = 0.0
        self._arrived_bytes = 0.0  # of the steps in which they are counted, like those sent
        self._sent_bytes = 0.0
        self._num_counted = 0

    def see(self, tallies: Tallies) -> None:
        """Of a step, the same on all ranks."""
        self._num_steps += 1
        self._hidden_bytes += sum(tallies[name].hidden_bytes for name in self._operations)
        if are_counted(tallies):
            self._num_counted += 1
            self._arrived_bytes += tallies[STEP].arrived_bytes
            self._sent_bytes += tallies[STEP].comm_bytes
        if self._num_steps == CHECKED_STEPS and not self._is_active:
            raise UserError(
                f"overlap is on, and no byte of {', '.join(self._operations)} moved behind compute"
                f" in {CHECKED_STEPS} steps",
                self._key,
                f"set {self._key}=off{self._besides}; observe.trace_steps=[1,2] shows what waits",
            )

    @property
    def _is_active(self) -> bool:
        is_telling = self._sent_bytes >= TELLING_BYTES * max(1, self._num_counted)
        has_arrived = not is_telling or self._arrived_bytes > HEADERS * self._sent_bytes
        return self._hidden_bytes > 0 and has_arrived


def are_counted(tallies: Tallies) -> bool:
    """Whether the step's arrivals are, on all ranks: one that does not count says NaN."""
    return not math.isnan(tallies[STEP].arrived_bytes)


def checks_of(decision: Decision, buckets_must_hide: bool) -> list[OverlapCheck]:
    """For the overlap that was decided or asked for."""
    checks = []
    chosen = [name for name in LINEARS if name in decision.overlapped]
    if chosen:
        besides = " and no other form of an operation"
        checks.append(OverlapCheck("overlap.mode", chosen, besides))
    if buckets_must_hide:
        checks.append(OverlapCheck("overlap.data_parallel", BUCKETS))
    return checks


def overlap_report(config: Config, decision: Decision, optimizer: ShardedAdamW) -> "OverlapReport":
    """Of a run that is about to train."""
    extra_bytes = {"gradient_buckets": optimizer.traffic.extra_bytes}
    for choice in decision.choices:  # forward and backward take turns
        known = extra_bytes.get(choice.operation, 0)
        extra_bytes[choice.operation] = max(known, choice.extra_bytes)
    runtime = optimizer.runtime
    checks = checks_of(decision, must_hide_buckets(config, runtime.mesh.data.size))
    is_cheap = runtime.mesh.world.size <= MOST_RANKS
    return OverlapReport(extra_bytes, checks, runtime.spans if is_cheap else None)


class OverlapReport:
    def __init__(
        self,
        extra_bytes: Mapping[str, int],
        checks: Sequence[OverlapCheck],
        spans: SpanRecorder | None = None,
    ) -> None:
        """extra_bytes: by operation, held because it overlaps. spans: where arrivals are counted,
        while it is checked what is active.
        """
        self._spans = spans
        self._arrivals: Arrivals | None = None
        self._extra_bytes = extra_bytes
        self._checks = checks
        self._tallying = Tallying()
        self._num_steps = 0
        self._total = {name: Tally() for name in _ORDER}

    def row(self, spans: Sequence[Span]) -> list[float]:
        """ROW_SIZE numbers: this rank's tallies of a step."""
        tallies = self._tallying.step(spans)
        if self._arrivals is None:
            unknown = math.nan
            tallies = {name: replace(one, arrived_bytes=unknown) for name, one in tallies.items()}
        return [value for name in _ORDER for value in astuple(tallies[name])]

    def record(self, row: Sequence[float]) -> dict[str, dict[str, Any]]:
        """The figures of a step, from the ranks' mean row. Raises UserError if nothing hides."""
        parts = [row[start : start + NUM_FIELDS] for start in range(0, ROW_SIZE, NUM_FIELDS)]
        tallies = {name: Tally(*part) for name, part in zip(_ORDER, parts, strict=True)}
        for check in self._checks:
            check.see(tallies)
        # The first step warms up: memory is mapped and threads start.
        if self._num_steps == 1:
            self._total = tallies
        else:
            self._total = {name: self._total[name] + tallies[name] for name in _ORDER}
        self._num_steps += 1
        self._count_arrivals()
        return overlap_figures(tallies, self._extra_bytes, are_counted(tallies))

    def _count_arrivals(self) -> None:
        """From the end of the first step, when all connections are there, until it is judged."""
        if self._spans is None or not self._checks:
            return
        if self._num_steps == 1 and can_count_arrivals():
            self._arrivals = Arrivals()
            self._spans.arrived = self._arrivals.count
        elif self._num_steps == CHECKED_STEPS and self._arrivals is not None:
            self._spans.arrived = None
            self._arrivals.close()
            self._arrivals = None

    def summary(self) -> list[str]:
        """A line an operation, means of all steps but the first; none where nothing moved."""
        if self._num_steps == 0 or self._total[STEP].comm_ms == 0:
            return []
        num_steps = max(1, self._num_steps - 1)
        means = {name: tally.times(1 / num_steps) for name, tally in self._total.items()}
        figures = overlap_figures(means, self._extra_bytes)
        moving = [name for name in figures if name != STEP]
        active = sum(figures[name]["hidden_bytes"] > 0 for name in moving)
        return [
            f"overlap: active on {active} of {len(moving)} operations that move bytes;"
            f" mean of {num_steps} steps",
            f"  {'':<18} {'compute':>9} {'comm':>9} {'exposed':>9} {'hidden':>7} {'slowdown':>8}"
            f" {'sent':>9} {'extra':>9}",
            *(_line(name, figures[name]) for name in (*moving, STEP)),
        ]


def _line(name: str, figures: Mapping[str, Any]) -> str:
    efficiency, slowdown = figures["overlap_efficiency"], figures["compute_slowdown"]
    return (
        f"  {name:<18} {figures['compute_ms']:>6.1f} ms {figures['comm_ms']:>6.1f} ms"
        f" {figures['exposed_comm_ms']:>6.1f} ms"
        f" {'-' if efficiency is None else f'{100 * efficiency:.0f} %':>7}"
        f" {'-' if slowdown is None else f'{slowdown:.2f}':>8}"
        f" {figures['comm_bytes'] / 1e6:>6.1f} MB {figures['extra_bytes'] / 1e6:>6.1f} MB"
    )

"""The virtual executor: a schedule on a clock, from shapes and a machine's figures.

    figures = Figures(matmul_flops=95e12, memory_bytes_per_s=410e9, link_bytes_per_s=192e9)
    timeline = simulate(schedule, meta_inputs, size=8, figures=figures)
    timeline.makespan_s, timeline.exposed_s, timeline.efficiency

Nodes of a stream run in the order of issue, each when its dependencies are done. Communications
that move at once share the link; where moving bytes costs compute, compute runs at what is left.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ndtrain.overlap.node_cost import Figures, NodeCost, Phase, node_costs
from ndtrain.overlap.schedule import Node, Schedule, Stream


class TimelineSpan(NamedTuple):
    name: str
    stream: str
    start_s: float
    stop_s: float
    work_s: float  # what it takes alone: less than stop - start where compute was stolen
    num_bytes: int = 0


@dataclass(frozen=True)
class Timeline:
    """Predicted spans of one schedule or of several, in order of start.

    What begins before zero had a head start: until zero it moves beside what stands in front.
    """

    spans: tuple[TimelineSpan, ...]

    @property
    def makespan_s(self) -> float:
        return max((span.stop_s for span in self.spans), default=0.0)

    @property
    def compute_s(self) -> float:
        """All compute nodes one after another, undisturbed."""
        return sum(span.work_s for span in self.spans if span.stream == Stream.COMPUTE)

    @property
    def communication_s(self) -> float:
        """All communications one after another."""
        return sum(span.work_s for span in self.spans if span.stream != Stream.COMPUTE)

    @property
    def exposed_s(self) -> float:
        """Time in which something moves and nothing computes."""
        return sum(stop_s - start_s for start_s, stop_s in self.exposed_intervals())

    def exposed_intervals(self) -> list[tuple[float, float]]:
        """(start, stop) of the times that `exposed_s` adds up, in order."""
        exposed: list[tuple[float, float]] = []
        computing = _union(s for s in self.spans if s.stream == Stream.COMPUTE)
        for start_s, stop_s in _union(s for s in self.spans if s.stream != Stream.COMPUTE):
            start_s = max(start_s, 0.0)
            for busy_from_s, busy_to_s in computing:
                if busy_to_s <= start_s or busy_from_s >= stop_s:
                    continue
                if busy_from_s > start_s:
                    exposed.append((start_s, busy_from_s))
                start_s = busy_to_s
            if start_s < stop_s:
                exposed.append((start_s, stop_s))
        return exposed

    @property
    def efficiency(self) -> float | None:
        """(compute + communication - makespan) / the smaller of the two.

        1: all that can be hidden is hidden; 0: one after the other; None: nothing to hide. Two
        streams also hide each other's latencies, which can bring it above 1.
        """
        hideable = min(self.compute_s, self.communication_s)
        if hideable <= 0:
            return None
        return (self.compute_s + self.communication_s - self.makespan_s) / hideable

    @property
    def compute_slowdown(self) -> float:
        """Time on the compute stream over the same work undisturbed; 1 if nothing is stolen."""
        busy = sum(s.stop_s - s.start_s for s in self.spans if s.stream == Stream.COMPUTE)
        return busy / self.compute_s if self.compute_s else 1.0

    def then(self, later: "Timeline") -> "Timeline":
        """This one, and the other after its end."""
        offset = self.makespan_s
        moved = (
            span._replace(start_s=span.start_s + offset, stop_s=span.stop_s + offset)
            for span in later.spans
        )
        return Timeline((*self.spans, *moved))


def simulate(
    schedule: Schedule,
    inputs: Sequence[Tensor],
    size: int,
    figures: Figures,
    serial: bool = False,
) -> Timeline:
    """One rank's timeline, all ranks being alike.

    inputs: meta tensors of the rank's shapes and dtypes; size: ranks of the axis. serial: one node
    at a time, in the order of issue.
    """
    return simulate_costs(schedule, node_costs(schedule, inputs, size, figures), figures, serial)


def simulate_costs(
    schedule: Schedule, costs: dict[str, NodeCost], figures: Figures, serial: bool = False
) -> Timeline:
    """The same where it is known what each node costs."""
    if serial:
        return _one_after_another(schedule, costs)
    clock = _Clock(schedule, costs, figures)
    while clock.advance():
        pass
    assert len(clock.spans) == len(schedule.nodes), "a schedule that `verify` would refuse"
    return Timeline(tuple(sorted(clock.spans, key=lambda span: (span.start_s, span.stop_s))))


def _one_after_another(schedule: Schedule, costs: dict[str, NodeCost]) -> Timeline:
    now_s, spans = 0.0, []
    for node in schedule.nodes:
        cost = costs[node.name]
        stop_s = now_s + cost.seconds
        spans.append(
            TimelineSpan(node.name, node.track.value, now_s, stop_s, cost.seconds, cost.num_bytes)
        )
        now_s = stop_s
    return Timeline(tuple(spans))


def _union(spans: Iterable[TimelineSpan]) -> list[tuple[float, float]]:
    """The times in which any of the spans runs: apart from each other and in order."""
    merged: list[tuple[float, float]] = []
    for start_s, stop_s in sorted((span.start_s, span.stop_s) for span in spans):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop_s, merged[-1][1]))
        else:
            merged.append((start_s, stop_s))
    return merged


@dataclass
class _Running:
    node: Node
    start_s: float
    phases: list[Phase]  # that remain; the first is under way

    @property
    def needs(self) -> str:
        return self.phases[0].needs if self.phases else "nothing"

    def seconds_left(self, rates: dict[str, float]) -> float:
        """Of the phase that is under way."""
        if not self.phases or self.phases[0].seconds == 0:
            return 0.0
        rate = rates[self.needs]
        return self.phases[0].seconds / rate if rate > 0 else math.inf

    def work(self, step_s: float, rates: dict[str, float]) -> None:
        if self.seconds_left(rates) <= step_s:
            del self.phases[:1]
        else:
            phase = self.phases[0]
            done_s = step_s * rates[phase.needs]
            self.phases[0] = phase._replace(seconds=phase.seconds - done_s)


class _Clock:
    """Goes from event to event: a phase ends, and what waited for it begins."""

    def __init__(self, schedule: Schedule, costs: dict[str, NodeCost], figures: Figures) -> None:
        self._costs, self._figures = costs, figures
        self._unissued = list(reversed(schedule.nodes))
        self._queues: dict[Stream, list[Node]] = {node.stream: [] for node in schedule.nodes}
        self._running: dict[Stream, _Running] = {}
        self._done = set(schedule.inputs)
        self._now_s = 0.0
        self.spans: list[TimelineSpan] = []

    def advance(self) -> bool:
        """To the next event; False if nothing runs any more."""
        self._begin()
        if not self._running:
            return False
        rates = self._rates()
        step_s = min(running.seconds_left(rates) for running in self._running.values())
        self._now_s += step_s
        for stream, running in list(self._running.items()):
            running.work(step_s, rates)
            if not running.phases:
                self._end(stream)
        return True

    def _rates(self) -> dict[str, float]:
        num_moving = sum(running.needs == "link" for running in self._running.values())
        stolen = self._figures.stolen_share if num_moving else 0.0
        return {"compute": 1.0 - stolen, "link": 1.0 / max(1, num_moving), "nothing": 1.0}

    def _begin(self) -> None:
        began = True
        while began:
            self._issue()
            began = False
            for stream, queue in self._queues.items():
                if stream in self._running or not queue:
                    continue
                if self._done.issuperset(queue[0].dependencies):
                    node = queue.pop(0)
                    phases = list(self._costs[node.name].phases)
                    self._running[stream] = _Running(node, self._now_s, phases)
                    began = True

    def _issue(self) -> None:
        """Hands nodes to their streams, as far as the host has come."""
        while self._unissued:
            node = self._unissued[-1]
            if not self._figures.issues_ahead:
                # The host computes, and waits itself for what is not data.
                busy = Stream.COMPUTE in self._running or self._queues.get(Stream.COMPUTE)
                if busy or not self._done.issuperset(node.after):
                    return
            self._queues[node.stream].append(self._unissued.pop())

    def _end(self, stream: Stream) -> None:
        running = self._running.pop(stream)
        name, cost = running.node.name, self._costs[running.node.name]
        self._done.add(name)
        self.spans.append(
            TimelineSpan(
                name,
                running.node.track.value,
                running.start_s,
                self._now_s,
                cost.seconds,
                cost.num_bytes,
            )
        )

"""What the nodes of a schedule cost on a machine that is known by a few figures.

    costs = node_costs(schedule, inputs, size, figures)     # {"product_0": NodeCost(...), ...}

Every operation runs once on meta tensors: FLOPs and bytes come from shapes (`ops/cost.py`), not
from formulas of our own. A compute node takes the longer of its FLOPs and its memory traffic (the
roofline of Williams et al. 2009, doi:10.1145/1498765.1498785), a communication the latency and its
bytes over the link, which all streams share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from ndtrain.ops.cost import Cost, CostCounter, nbytes
from ndtrain.overlap.buffers import placements
from ndtrain.overlap.operations import Join, Same
from ndtrain.overlap.schedule import (
    AllGather,
    Communication,
    Compute,
    Permute,
    Schedule,
)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A machine: one rank's compute and its link. Seconds, bytes, FLOP/s; infinity: costs nothing.

    link_latency_s: from the issue of a communication until its first byte arrives.
    link_bytes_per_s: that one rank sends, while it receives as many.
    node_overhead_s: of every node besides its work: a launch, a call.
    stolen_s_per_byte: compute lost while a byte moves, where moving bytes costs compute (CPUs).
    issues_ahead: whether the host issues while the device computes. If not (CPUs), the thread that
        issues also computes, and a communication begins no earlier than the compute issued before.
    """

    matmul_flops: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    link_latency_s: float = 0.0
    node_overhead_s: float = 0.0
    stolen_s_per_byte: float = 0.0
    issues_ahead: bool = False

    @property
    def link_s_per_byte(self) -> float:
        """A link is no faster than the compute that drives it."""
        return max(1 / self.link_bytes_per_s, self.stolen_s_per_byte)

    @property
    def stolen_share(self) -> float:
        """Of the compute rate, while anything moves; 1 at most."""
        return self.stolen_s_per_byte / self.link_s_per_byte if self.stolen_s_per_byte else 0.0


class Phase(NamedTuple):
    """Seconds at full rate of what the phase needs: compute, the link, or nothing that is shared.

    Communications that move at once share the link, and take compute away if moving costs any.
    """

    needs: Literal["compute", "link", "nothing"]
    seconds: float


@dataclass(frozen=True)
class NodeCost:
    phases: tuple[Phase, ...]  # one after another
    num_bytes: int = 0  # sent by this rank
    flops: int = 0

    @property
    def seconds(self) -> float:
        """Alone on the machine."""
        return sum(phase.seconds for phase in self.phases)


def compute_seconds(cost: Cost, figures: Figures) -> float:
    return max(cost.flops / figures.matmul_flops, cost.num_bytes / figures.memory_bytes_per_s)


def received(node: Communication, x: Tensor, size: int) -> Tensor:
    """What a communication of x leaves on one rank, as a tensor like it; size: of the axis."""
    if isinstance(node, Permute):
        return x
    num_rows = x.shape[0] * size if isinstance(node, AllGather) else x.shape[0] // size
    return x.new_empty((num_rows, *x.shape[1:]))


def node_costs(
    schedule: Schedule, inputs: Sequence[Tensor], size: int, figures: Figures
) -> dict[str, NodeCost]:
    """inputs: meta tensors of one rank's shapes and dtypes; size: ranks of the axis."""
    return _Costing(schedule, inputs, size, figures).costs


class _Costing:
    def __init__(
        self, schedule: Schedule, inputs: Sequence[Tensor], size: int, figures: Figures
    ) -> None:
        self._size, self._figures = size, figures
        self._places: Mapping[str, tuple[str, int]] = placements(schedule)
        self._values = dict(zip(schedule.inputs, inputs, strict=True))
        # Chunks of one size cost the same: their operation runs once.
        self._known: dict[tuple, tuple[Tensor, Cost]] = {}
        self.costs: dict[str, NodeCost] = {}
        for node in schedule.nodes:
            tensors = [self._values[name] for name in node.inputs]
            if isinstance(node, Compute):
                value, cost = self._compute(node, tensors)
            else:
                assert isinstance(node, Communication)
                value, cost = self._communication(node, tensors[0])
            self._values[node.name], self.costs[node.name] = value, cost

    def _compute(self, node: Compute, tensors: list[Tensor]) -> tuple[Tensor, NodeCost]:
        if isinstance(node.operation, Same):  # nothing runs
            return tensors[0], NodeCost(())
        value, cost = self._run(node, tensors)
        if isinstance(node.operation, Join):
            cost = self._cost_of_join(node, tensors, cost)
        seconds = compute_seconds(cost, self._figures) + self._figures.node_overhead_s
        return value, NodeCost((Phase("compute", seconds),), flops=cost.flops)

    def _run(self, node: Compute, tensors: list[Tensor]) -> tuple[Tensor, Cost]:
        shapes = tuple((x.shape, x.stride(), x.dtype) for x in tensors)
        key = (node.operation, shapes)
        if key not in self._known:
            with CostCounter() as counter:
                value = node.operation(*tensors)
            self._known[key] = value, counter.total
        return self._known[key]

    def _cost_of_join(self, node: Compute, tensors: list[Tensor], whole: Cost) -> Cost:
        """Parts that are made in place cost nothing; if none is, all are copied."""
        copied = [
            tensor
            for name, tensor in zip(node.inputs, tensors, strict=True)
            if self._places.get(name, ("", 0))[0] != node.name
        ]
        if len(copied) == len(tensors):
            return whole
        return Cost(num_bytes=2 * nbytes(*copied))  # read once, written once

    def _communication(self, node: Communication, x: Tensor) -> tuple[Tensor, NodeCost]:
        size, figures = self._size, self._figures
        value = received(node, x, size)
        added = 0  # bytes of the sum that is made when they have come
        if isinstance(node, Permute):
            num_bytes = x.nbytes
        elif isinstance(node, AllGather):
            num_bytes = (size - 1) * x.nbytes
        else:
            num_bytes = (size - 1) * value.nbytes
            added = x.nbytes + value.nbytes
        if size == 1:  # nothing is called
            return value, NodeCost(())
        phases = (
            Phase("nothing", figures.node_overhead_s + figures.link_latency_s),
            Phase("link", num_bytes * figures.link_s_per_byte),
            Phase("nothing", added / figures.memory_bytes_per_s),
        )
        return value, NodeCost(phases, num_bytes)

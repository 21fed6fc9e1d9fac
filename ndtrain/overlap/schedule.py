"""A schedule: a graph of functional nodes on named streams.

    graph = ScheduleBuilder("qkv", inputs=("x", "weight"))
    half = graph.compute("first", operations.linear, ("x", "weight"))
    moved = graph.permute("hop", "x", shift=1, stream=Stream.GATHER)
    schedule = graph.finish((half, moved))

A node reads values and makes one new value; nothing is overwritten, so what depends on what is
plain from the names, and `after` adds the dependencies that are not data. Nodes stand in the order
of issue. On one stream they run in that order; across streams only dependencies count. Who sends
to whom is relative (`shift`), so every rank holds an equal graph; only the operations know the
rank, where they say which rows a chunk has: through its place (`runtime/place.py`), which in a
traced graph is data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from ndtrain.overlap.operations import Operation


class Stream(StrEnum):
    COMPUTE = "compute"
    GATHER = "gather"
    SCATTER = "scatter"
    DMA = "dma"


@dataclass(frozen=True)
class Node:
    name: str  # unique in the schedule; also the name of its value
    stream: Stream
    inputs: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def dependencies(self) -> tuple[str, ...]:
        return self.inputs + self.after

    @property
    def track(self) -> Stream:
        """Where it is drawn and counted: what blocks the compute stream is no compute."""
        if self.stream is Stream.COMPUTE and not isinstance(self, Compute):
            return Stream.GATHER
        return self.stream


@dataclass(frozen=True)
class Compute(Node):
    operation: Operation


@dataclass(frozen=True)
class Permute(Node):
    """Sends its input to rank + shift and receives a tensor like it from rank - shift."""

    shift: int


@dataclass(frozen=True)
class AllGather(Node):
    """[n, ...] of each rank -> [size * n, ...] in rank order."""


@dataclass(frozen=True)
class ReduceScatter(Node):
    """[size * n, ...] of each rank -> own [n, ...] of the sum in rank order."""


Communication = Permute | AllGather | ReduceScatter


@dataclass(frozen=True)
class Schedule:
    name: str
    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def users(self) -> dict[str, list[str]]:
        """Value -> nodes that read it."""
        users: dict[str, list[str]] = {name: [] for name in self.inputs}
        for node in self.nodes:
            users.setdefault(node.name, [])
            for name in node.inputs:
                users[name].append(node.name)
        return users

    @cached_property
    def last_reads(self) -> dict[str, list[str]]:
        """Node -> values that nobody needs behind it; outputs and unread values are in none."""
        last: dict[str, str] = {}
        for node in self.nodes:
            last |= dict.fromkeys(node.dependencies, node.name)
        reads: dict[str, list[str]] = {}
        for name, reader in last.items():
            if name not in self.outputs:
                reads.setdefault(reader, []).append(name)
        return reads


@dataclass
class ScheduleBuilder:
    """Appends nodes in the order of issue; each method returns the name of the new value."""

    name: str
    inputs: tuple[str, ...]
    _nodes: list[Node] = field(default_factory=list)

    def compute(
        self,
        name: str,
        operation: Operation,
        inputs: Sequence[str],
        after: Sequence[str] = (),
    ) -> str:
        return self._add(Compute(name, Stream.COMPUTE, tuple(inputs), tuple(after), operation))

    def permute(
        self, name: str, value: str, shift: int, stream: Stream, after: Sequence[str] = ()
    ) -> str:
        return self._add(Permute(name, stream, (value,), tuple(after), shift))

    def all_gather(self, name: str, value: str, after: Sequence[str] = ()) -> str:
        return self._add(AllGather(name, Stream.GATHER, (value,), tuple(after)))

    def reduce_scatter(self, name: str, value: str, after: Sequence[str] = ()) -> str:
        return self._add(ReduceScatter(name, Stream.SCATTER, (value,), tuple(after)))

    def exchange(self, name: str, value: str, after: Sequence[str] = ()) -> str:
        """A small all-gather that compute waits for at once: it blocks the compute stream."""
        return self._add(AllGather(name, Stream.COMPUTE, (value,), tuple(after)))

    def finish(self, outputs: Sequence[str]) -> Schedule:
        return Schedule(self.name, self.inputs, tuple(self._nodes), tuple(outputs))

    def _add(self, node: Node) -> str:
        assert node.name not in {*self.inputs, *(other.name for other in self._nodes)}
        self._nodes.append(node)
        return node.name

"""Runs the communications of a schedule whose compute happens elsewhere: in autograd, in a loop.

    unfolding = Unfolding(schedule, runtime, axis)
    unfolding.done("gradients_0", tensor)       # issues what may begin now
    unfolding.begin("norm")                     # waits for what the node depends on
    unfolding.value("scatter_0")

Communications are issued in the order of the schedule, stream by stream, whatever the order in
which compute is done: all ranks issue the same. Who computes says so before and after; what has to
be waited for, the schedule alone knows.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

from torch import Tensor

from ndtrain.overlap.execute import Value, communication, ready
from ndtrain.overlap.schedule import Compute, Node, Schedule, Stream
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.mesh import Axis
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.streams import Pending, Work

Means = Callable[[Tensor, Collectives, str, str], Tensor]
"""(value, collectives, name, track) -> what the communication leaves on this rank."""


class Unfolding:
    """One run of a schedule. Raises StreamError naming a communication that failed."""

    def __init__(
        self,
        schedule: Schedule,
        runtime: Runtime,
        axis: Axis,
        serial: bool = False,
        places: Mapping[str, Tensor] | None = None,
        means: Mapping[str, Means] | None = None,
    ) -> None:
        """places: memory that gathers write to. serial: each communication blocks its caller.

        means: how communications are done that have the effect of their node's collective, and are
        another.
        """
        self._schedule, self._axis, self._runtime, self._serial = schedule, axis, runtime, serial
        self._trace = runtime.trace
        self._places, self._means = places or {}, means or {}
        self._nodes = {node.name: node for node in schedule.nodes}
        self._unissued: dict[Stream, list[Node]] = {}
        for node in reversed(schedule.nodes):
            if not isinstance(node, Compute):
                self._unissued.setdefault(node.stream, []).append(node)
        self._computed: set[str] = set()
        self._made: dict[str, Tensor] = {}
        self._ends: dict[str, Tensor] = {}  # of what compute has made, the part that came last
        self._pending: dict[str, Pending] = {}
        self._freed: set[str] = set()  # values that nobody needs any more

    @property
    def under_way(self) -> list[str]:
        """Communications that were issued and that nobody has waited for yet, in that order."""
        return [name for name in self._pending if name not in self._made]

    def begin(self, name: str) -> None:
        """Before the compute node `name`: waits for the communications that it depends on."""
        for dependency in self._nodes[name].dependencies:
            if dependency not in self._freed and dependency not in self._schedule.inputs:
                self.value(dependency)

    def done(self, name: str, value: Tensor, end: Tensor | None = None) -> None:
        """The compute node `name` has made its value; what waited for it begins.

        end: what of the value was made last, if it was made in parts.
        """
        assert isinstance(self._nodes[name], Compute), name
        assert name not in self._computed, f"{name} was done before"
        self._computed.add(name)
        self._made[name] = value
        self._ends[name] = value if end is None else end
        self._free(name)
        for waiting in self._unissued.values():
            while waiting and all(self._is_there(other) for other in waiting[-1].dependencies):
                self._issue(waiting.pop())

    def value(self, name: str) -> Tensor:
        """What the node has made, waited for if it is on its way."""
        if name not in self._made:
            assert name in self._pending, f"{name} has not begun: out of the schedule's order"
            self._made[name] = self._pending[name].wait()
        return self._made[name]

    def _is_there(self, name: str) -> bool:
        known = (self._made, self._pending, self._freed, self._schedule.inputs)
        return any(name in names for names in known)

    def _free(self, reader: str) -> None:
        for name in self._schedule.last_reads.get(reader, ()):
            self._made.pop(name, None)
            self._ends.pop(name, None)
            self._pending.pop(name, None)
            self._freed.add(name)

    def _issue(self, node: Node) -> None:
        (source,) = node.inputs
        value = self._made[source] if source in self._made else self._pending[source]
        if self._trace and node.after and self._axis.size > 1:  # alone, nothing travels
            value = self._trace.tie(ready(value), [self._ends[name] for name in node.after])
        label = f"{self._schedule.name}.{node.name}"
        if node.name in self._means:
            work = _by(self._means[node.name], value, label, node.track)
        else:
            out = self._places.get(node.name)
            work = communication(self._schedule, node, value, self._axis, out)
        stream = self._runtime.stream_of(node.stream, self._axis, self._serial)
        with self._trace.scope(label) if self._trace else nullcontext():
            self._pending[node.name] = stream.submit(label, work)
        self._free(node.name)


def _by(means: Means, value: Value, label: str, track: str) -> Work:
    return lambda collectives: means(ready(value), collectives, label, track)

"""Runs a schedule on tensors: compute here, communication on the runtime's streams.

    y, = execute(schedule, (x, weight), runtime, axis)              # concurrent
    y, = execute(schedule, (x, weight), runtime, axis, serial=True) # one node at a time

    run = Run(schedule, runtime, axis)                              # or in two parts:
    run.begin({"x": x})                                             # what needs nothing but x
    dx, dweight = run.finish((dy, x, weight))

Both give the same bits: a node reads only values, never what another node overwrites. A node that
needs a value still on its way waits for it; a communication node waits on its stream, not here.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ndtrain.overlap.buffers import Buffers
from ndtrain.overlap.early import last_issued, leading
from ndtrain.overlap.execute_traced import execute_traced
from ndtrain.overlap.schedule import (
    AllGather,
    Compute,
    Node,
    Permute,
    ReduceScatter,
    Schedule,
    Stream,
)
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.mesh import Axis
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.streams import Pending, Work

Value = Tensor | Pending


def execute(
    schedule: Schedule,
    inputs: Sequence[Tensor],
    runtime: Runtime,
    axis: Axis,
    serial: bool = False,
) -> tuple[Tensor, ...]:
    """Returns the schedule's outputs. Raises StreamError naming an operation that failed.

    On a device that traces (`execute_traced.py`) the schedule is recorded, and serial has no
    meaning: the device's compiler decides what runs at the same time.
    """
    if runtime.trace is not None:
        return execute_traced(schedule, inputs, runtime, axis)
    return Run(schedule, runtime, axis, serial).finish(inputs)


class Run:
    """One execution of a schedule, where nothing is traced; errors are those of `execute`."""

    def __init__(
        self, schedule: Schedule, runtime: Runtime, axis: Axis, serial: bool = False
    ) -> None:
        self._schedule, self._runtime, self._axis, self._serial = schedule, runtime, axis, serial
        self._buffers, self._done_with = Buffers(schedule), schedule.last_reads
        self._values: dict[str, Value] = {}
        self._num_done = 0

    def begin(self, inputs: Mapping[str, Tensor]) -> None:
        """Runs the nodes in front that need nothing but these inputs."""
        assert self._num_done == 0, f"{self._schedule.name} has begun"
        self._values |= inputs
        for node in leading(self._schedule, inputs):
            self._step(node)

    def finish(
        self, inputs: Sequence[Tensor], issued: Callable[[], None] | None = None
    ) -> tuple[Tensor, ...]:
        """Runs the rest. inputs: all of them, also those that `begin` was given.

        issued: called once the last communication is on its stream, with compute left to do.
        """
        self._values |= dict(zip(self._schedule.inputs, inputs, strict=True))
        last = None if issued is None else last_issued(self._schedule)
        for place in range(self._num_done, len(self._schedule.nodes)):
            self._step(self._schedule.nodes[place])
            if issued is not None and place == last:
                issued()
        return tuple(ready(self._values[name]) for name in self._schedule.outputs)

    def _step(self, node: Node) -> None:
        for name in node.after:
            ready(self._values[name])
        self._values[node.name] = self._value(node)
        for name in self._done_with.get(node.name, ()):  # what still moves holds what it needs
            del self._values[name]
        self._num_done += 1

    def _value(self, node: Node) -> Value:
        read = [self._values[name] for name in node.inputs]
        if isinstance(node, Compute):
            return self._compute(node, read)
        out = self._buffers.place_like(node, read[0])
        work = communication(self._schedule, node, read[0], self._axis, out)
        if node.stream is Stream.COMPUTE:
            return work(self._runtime.collectives)
        stream = self._runtime.stream_of(node.stream, self._axis, self._serial)
        return stream.submit(f"{self._schedule.name}.{node.name}", work)

    def _compute(self, node: Compute, values: list[Value]) -> Tensor:
        tensors = [ready(value) for value in values]
        joined = self._buffers.joined(node, tensors)
        if joined is not None:
            return joined
        out = self._buffers.place(node, tensors)
        with self._runtime.compute(f"{self._schedule.name}.{node.name}"):
            return node.operation(*tensors, out=out)


def ready(value: Value) -> Tensor:
    return value.wait() if isinstance(value, Pending) else value


def communication(
    schedule: Schedule, node: Node, value: Value, axis: Axis, out: Tensor | None
) -> Work:
    """What a stream is handed for the node. out: memory for what comes, None: new."""
    name = f"{schedule.name}.{node.name}"

    def work(collectives: Collectives) -> Tensor:
        x = ready(value)
        if isinstance(node, Permute):
            return collectives.permute(x, axis, node.shift, name, node.track, out)
        if isinstance(node, AllGather):
            return collectives.all_gather(x, axis, name, node.track, out)
        assert isinstance(node, ReduceScatter)
        return collectives.reduce_scatter(x, axis, name, node.track)

    return work

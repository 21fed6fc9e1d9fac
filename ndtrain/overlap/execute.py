"""Runs a schedule on tensors: compute here, communication on the runtime's streams.

    y, = execute(schedule, (x, weight), runtime, axis)              # concurrent
    y, = execute(schedule, (x, weight), runtime, axis, serial=True) # one node at a time

Both give the same bits: a node reads only values, never what another node overwrites. A node that
needs a value still on its way waits for it; a communication node waits on its stream, not here.
"""

from collections.abc import Sequence

from torch import Tensor

from ndtrain.overlap.buffers import Buffers
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
    values: dict[str, Value] = dict(zip(schedule.inputs, inputs, strict=True))
    buffers, done_with = Buffers(schedule), schedule.last_reads
    for node in schedule.nodes:
        for name in node.after:
            ready(values[name])
        read = [values[name] for name in node.inputs]
        if isinstance(node, Compute):
            values[node.name] = _compute(schedule, node, read, runtime, buffers)
        else:
            out = buffers.place_like(node, read[0])
            work = communication(schedule, node, read[0], axis, out)
            if node.stream is Stream.COMPUTE:
                values[node.name] = work(runtime.collectives)
            else:
                label = f"{schedule.name}.{node.name}"
                stream = runtime.stream_of(node.stream, axis, serial)
                values[node.name] = stream.submit(label, work)
            del work
        del read
        for name in done_with.get(node.name, ()):  # what still moves holds what it needs
            del values[name]
    return tuple(ready(values[name]) for name in schedule.outputs)


def ready(value: Value) -> Tensor:
    return value.wait() if isinstance(value, Pending) else value


def _compute(
    schedule: Schedule, node: Compute, values: list[Value], runtime: Runtime, buffers: Buffers
) -> Tensor:
    tensors = [ready(value) for value in values]
    joined = buffers.joined(node, tensors)
    if joined is not None:
        return joined
    out = buffers.place(node, tensors)
    with runtime.compute(f"{schedule.name}.{node.name}"):
        return node.operation(*tensors, out=out)


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

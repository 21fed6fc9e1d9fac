"""Records a schedule in a traced graph: its communication in order, its compute free.

    y, = execute_traced(schedule, (x, weight), runtime, axis)

The order of issue of the communication nodes becomes the order that the device keeps; it is the
same on all ranks (`verify_ranks.py`). A node depends on what it reads and on its `after`, nothing
else: no value is written into another's buffer, because in a graph of values whoever reads a part
of a buffer depends on everything that was written to it before.

What is only `after` becomes data of the node's first input, at the price of a pass over it. So
schedules let a communication wait, whose operand torch-xla passes over for its token anyway, or
compute whose first input is small.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from ndtrain.overlap.schedule import AllGather, Compute, Node, Permute, ReduceScatter, Schedule
from ndtrain.runtime.mesh import Axis
from ndtrain.runtime.runtime import Runtime


def execute_traced(
    schedule: Schedule, inputs: Sequence[Tensor], runtime: Runtime, axis: Axis
) -> tuple[Tensor, ...]:
    """Returns the schedule's outputs; instructions are named SCHEDULE.NODE."""
    assert runtime.trace is not None
    values: dict[str, Tensor] = dict(zip(schedule.inputs, inputs, strict=True))
    for node in schedule.nodes:
        label = f"{schedule.name}.{node.name}"
        read = [values[name] for name in node.inputs]
        if node.after:
            read[0] = runtime.trace.tie(read[0], [values[name] for name in node.after])
        with runtime.trace.scope(label):
            if isinstance(node, Compute):
                values[node.name] = node.operation(*read)
            else:
                values[node.name] = _communicate(node, read[0], runtime, axis, label)
    return tuple(values[name] for name in schedule.outputs)


def _communicate(node: Node, x: Tensor, runtime: Runtime, axis: Axis, label: str) -> Tensor:
    collectives = runtime.collectives
    if isinstance(node, Permute):
        return collectives.permute(x, axis, node.shift, label, node.stream)
    if isinstance(node, AllGather):
        return collectives.all_gather(x, axis, label, node.stream)
    return collectives.reduce_scatter(x, axis, label, cast(ReduceScatter, node).stream)

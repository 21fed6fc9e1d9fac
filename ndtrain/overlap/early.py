"""The head start of a backward: what it communicates first moves while others still compute.

    leading(column_backward(...), {"x"})          # the gather of x: it needs no gradient
    whole = joined(row_backward(...), column_backward(...), Between(width))

A column-parallel product gathers its x again in backward. That waits for nothing: it may begin as
soon as the stream is free, which is behind the last gather of the row-parallel product that
backward runs before it. It then moves behind the row's last products and all that lies between the
two (attention, SwiGLU), where the link would rest.

    o.gather   qkv.gather                                       gather
       o.product  o.dweight  attention  qkv.product  qkv.dweight    compute
                                                 qkv.scatter    scatter

`joined` is both as one schedule, to be verified, timed and drawn. A run holds them apart, because
autograd computes what lies between: `execute.Run` begins the second and finishes it later.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ndtrain.overlap.operations import Operation
from ndtrain.overlap.schedule import Compute, Node, Schedule, Stream

AHEAD = "x"  # the input of the second that is there before its gradient
BETWEEN = "between"  # the node that stands for what autograd computes between the two


@dataclass(frozen=True)
class Between:
    """A gradient of other columns: of its value a plan knows the shape, no more."""

    width: int

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        (dx,) = tensors
        assert dx.is_meta, "autograd computes it"
        return dx.new_empty((*dx.shape[:-1], self.width))


def leading(schedule: Schedule, given: Collection[str]) -> tuple[Node, ...]:
    """The nodes in front that need nothing but the inputs in `given`."""
    there, nodes = set(given), []
    for node in schedule.nodes:
        if not there.issuperset(node.dependencies):
            break
        nodes.append(node)
        there.add(node.name)
    return tuple(nodes)


def last_issued(schedule: Schedule) -> int:
    """The place of the last communication; -1 if there is none."""
    places = [i for i, node in enumerate(schedule.nodes) if not isinstance(node, Compute)]
    return places[-1] if places else -1


def joined(first: Schedule, second: Schedule, between: Operation) -> Schedule:
    """Both in the order of a run. between: makes the second's gradient of the first's output.

    Values are called SCHEDULE.NAME. Inputs are the first's and the second's without its gradient,
    outputs the second's and the first's without its first.
    """
    dx, *others = first.outputs
    given = {second.inputs[0]: BETWEEN}
    ahead = _named(leading(second, {AHEAD}), second, given)
    nodes, behind = _named(first.nodes, first, {}), last_issued(first) + 1
    rest = _named(second.nodes[len(ahead) :], second, given)
    middle = Compute(BETWEEN, Stream.COMPUTE, (f"{first.name}.{dx}",), (), between)
    inputs = [
        *(f"{first.name}.{name}" for name in first.inputs),
        *(f"{second.name}.{name}" for name in second.inputs[1:]),
    ]
    outputs = [
        *(f"{second.name}.{name}" for name in second.outputs),
        *(f"{first.name}.{name}" for name in others),
    ]
    return Schedule(
        f"{first.name}+{second.name}",
        tuple(inputs),
        (*nodes[:behind], *ahead, *nodes[behind:], middle, *rest),
        tuple(outputs),
    )


def _named(nodes: Collection[Node], schedule: Schedule, given: Mapping[str, str]) -> list[Node]:
    """given: inputs that go by another name in the whole."""

    def name(own: str) -> str:
        return given.get(own, f"{schedule.name}.{own}")

    return [
        replace(
            node,
            name=name(node.name),
            inputs=tuple(map(name, node.inputs)),
            after=tuple(map(name, node.after)),
        )
        for node in nodes
    ]

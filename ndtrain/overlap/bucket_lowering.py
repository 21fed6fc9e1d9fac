"""Whether a traced step permits what the schedule of its buckets plans: compared pair by pair.

    found = compare_buckets(schedule, HloGraph.read(text), lines)    # a Comparison

A layer's product is one instruction; what is computed for a bucket is a scope of many.
`gradients_2` are the additions to that bucket's gradients, `norm` and `update_2` all that is
recorded there. `forward_2` belongs to the next step, which is another graph.

Other axes communicate in the same graph, by schedules of their own, and all communications stand in
one order: what waits for a bucket through one of theirs is given up.
"""

from collections.abc import Mapping, Sequence

from ndtrain.overlap.hlo import COLLECTIVES, HloGraph, Reach
from ndtrain.overlap.lowering import (
    Comparison,
    Lines,
    Part,
    dependencies,
    find_instructions,
    lost_order,
)
from ndtrain.overlap.schedule import Compute, Node, Schedule

SUMS = "gradients_"


def compare_buckets(schedule: Schedule, graph: HloGraph, lines: Lines) -> Comparison:
    """schedule: of the buckets. lines: all of the data axis."""
    part = Part(schedule)
    found, (problems,) = find_instructions([part], graph, lines)
    scopes = {node.name: _computed(node, part, graph) for node in _compute_nodes(schedule)}
    problems += [
        f"nothing of `{name}` is in the graph" for name, some in scopes.items() if not some
    ]
    problems += _strays(part, graph, lines)
    if problems:  # without its instructions a pair cannot be looked up
        return Comparison(0, 0, [], problems)
    return _Pairs(part, found, scopes, graph).compared()


def _compute_nodes(schedule: Schedule) -> list[Node]:
    """Without the next step's."""
    return [
        node
        for node in schedule.nodes
        if isinstance(node, Compute) and not node.name.startswith("forward_")
    ]


def _computed(node: Node, part: Part, graph: HloGraph) -> list[str]:
    is_sum = node.name.startswith(SUMS)
    return [
        one.name
        for one in graph.labelled(part.label(node))
        if (one.opcode == "add" if is_sum else one.opcode not in COLLECTIVES)
    ]


def _strays(part: Part, graph: HloGraph, lines: Lines) -> list[str]:
    """Communication on the data axis that the schedule does not have; the norm's is part of it."""
    known = {part.label(node) for node in part.schedule.nodes}
    data = {tuple(line) for line in lines}
    return [
        f"the schedule does not have the {one.opcode} {one.name} (scope `{one.label}`)"
        for one in graph.instructions.values()
        if one.opcode in COLLECTIVES and set(one.groups) == data and one.label not in known
    ]


class _Pairs:
    """Each communication of a bucket with all that is computed for any of them."""

    def __init__(
        self,
        part: Part,
        found: Mapping[str, str],
        scopes: Mapping[str, Sequence[str]],
        graph: HloGraph,
    ) -> None:
        """found: label -> instruction. scopes: compute node -> its instructions."""
        self._graph, self._scopes, self._found = graph, scopes, found
        self._labels = {node.name: part.label(node) for node in part.schedule.nodes}
        self._part, self._expected = part, Reach(dependencies([part]))
        self._others = [
            one.name
            for one in graph.instructions.values()
            if one.opcode in COLLECTIVES and one.label not in self._labels.values()
        ]

    def compared(self) -> Comparison:
        moving = [node.name for node in self._part.schedule.nodes if not isinstance(node, Compute)]
        order = [self._labels[name] for name in moving]
        problems = lost_order(self._part, order, self._found, self._graph)
        num_free, given_up = 0, []
        for moved in moving:
            for computed in self._scopes:
                free, is_given_up, some = self._compare(moved, computed)
                num_free += free
                given_up += [(moved, computed)] if is_given_up else []
                problems += some
        return Comparison(len(moving) * len(self._scopes), num_free, given_up, problems)

    def _compare(self, moved: str, computed: str) -> tuple[bool, bool, list[str]]:
        """Whether the two are free of each other, whether that is given up, and what is wrong."""
        instruction = self._found[self._labels[moved]]
        scope = self._scopes[computed]
        behind = [(instruction, one) for one in scope]
        ahead = [(one, instruction) for one in scope]
        is_free, is_given_up, problems = True, False, []
        for first, second, pairs in ((moved, computed, behind), (computed, moved, ahead)):
            has_to = self._expected.before(self._labels[first], self._labels[second])
            waits = [pair for pair in pairs if self._graph.before(*pair)]
            is_free &= not waits
            # A bucket is reduced when all of its gradients are added up.
            needed = len(pairs) if first.startswith(SUMS) else 1
            if has_to and len(waits) < needed:
                problems.append(
                    f"in the graph `{second}` does not wait for `{first}`, in the schedule it does"
                )
            elif waits and not has_to and all(self._through_others(*pair) for pair in waits):
                is_given_up = True
            elif waits and not has_to:
                problems.append(f"in the graph `{second}` waits for `{first}`, in the schedule not")
        return is_free, is_given_up, problems

    def _through_others(self, first: str, second: str) -> bool:
        """Whether a communication of another axis stands between the two."""
        before = self._graph.before
        return any(before(first, one) and before(one, second) for one in self._others)

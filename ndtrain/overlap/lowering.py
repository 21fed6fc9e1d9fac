"""Whether a traced graph permits what its schedules plan: compared pair by pair.

    parts = [Part(forward, {}), Part(backward, {"dy": ("down.backward.product",)})]
    found = compare(parts, HloGraph.read(text), lines)      # one Comparison a part

The schedules say what a product and a communication wait for: their inputs, their `after`, and for
a communication all that were recorded before it. The graph says it by reachability. Both relations
have to be the same for every pair, so that nothing may run too early and nothing waits in vain.
What a compiler then does with the freedom, only a profile of the device tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ndtrain.overlap.head import AddWeightGradient
from ndtrain.overlap.hlo import COLLECTIVES, HloGraph, Instruction, Reach
from ndtrain.overlap.operations import InputGradient, Linear, WeightGradient
from ndtrain.overlap.order import Order
from ndtrain.overlap.schedule import AllGather, Compute, Node, Permute, ReduceScatter, Schedule

Lines = Sequence[Sequence[int]]
"""All lines of the axis that the schedules communicate on."""

_PRODUCTS = (Linear, InputGradient, WeightGradient, AddWeightGradient)
_OPCODES: dict[type[Node], str] = {
    AllGather: "all-gather",
    ReduceScatter: "reduce-scatter",
    Permute: "collective-permute",
}


@dataclass(frozen=True)
class Part:
    """A schedule in a graph, and of its inputs the nodes of other parts that they come from.

    sources: input -> labels, SCHEDULE.NODE; an input without an entry comes from outside.
    """

    schedule: Schedule
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def label(self, node: Node) -> str:
        return f"{self.schedule.name}.{node.name}"

    @property
    def output(self) -> str:
        """The label of its first output."""
        return f"{self.schedule.name}.{self.schedule.outputs[0]}"


@dataclass(frozen=True)
class Comparison:
    """Of the products of one schedule with every communication of the graph.

    given_up: (communication, product) that the schedule's streams would run side by side, and that
    one order of all communications does not allow.
    """

    num_pairs: int
    num_free: int  # pairs of which neither waits for the other, so that one may hide the other
    given_up: list[tuple[str, str]]
    problems: list[str]


def compare(parts: Sequence[Part], graph: HloGraph, lines: Lines) -> list[Comparison]:
    """parts: in the order in which they were recorded. Returns a comparison for each."""
    found, missing = find_instructions(parts, graph, lines)
    strays = _strays(parts, graph)
    if any(missing) or strays:  # without its instructions a pair cannot be looked up
        return [
            Comparison(0, 0, [], some + (strays if place == 0 else []))
            for place, some in enumerate(missing)
        ]
    expected = Reach(dependencies(parts))
    return [_compare_part(part, parts, found, expected, graph) for part in parts]


def is_product(node: Node) -> bool:
    return isinstance(node, Compute) and isinstance(node.operation, _PRODUCTS)


def dependencies(parts: Sequence[Part]) -> dict[str, list[str]]:
    """Label -> labels that it waits for."""
    waits: dict[str, list[str]] = {}
    latest: str | None = None  # communication of whichever part
    for part in parts:
        names = {name: [*part.sources.get(name, ())] for name in part.schedule.inputs}
        for node in part.schedule.nodes:
            label = part.label(node)
            waits[label] = [source for name in node.dependencies for source in names[name]]
            if not isinstance(node, Compute):
                waits[label] += [latest] if latest else []
                latest = label
            names[node.name] = [label]
    return waits


def find_instructions(
    parts: Sequence[Part], graph: HloGraph, lines: Lines
) -> tuple[dict[str, str], list[list[str]]]:
    """Label -> the instruction that is the node's product or communication; problems by part."""
    found: dict[str, str] = {}
    problems: list[list[str]] = []
    for part in parts:
        problems.append([])
        for node in part.schedule.nodes:
            opcode = "dot" if is_product(node) else _OPCODES.get(type(node))
            if opcode is None:
                continue
            label = part.label(node)
            candidates = [one for one in graph.labelled(label) if one.opcode == opcode]
            if len(candidates) != 1:
                problems[-1].append(f"`{node.name}` is {len(candidates)} {opcode} in the graph")
                continue
            found[label] = candidates[0].name
            problems[-1] += _wrong_partners(node, candidates[0], lines)
    return found, problems


def _wrong_partners(node: Node, instruction: Instruction, lines: Lines) -> list[str]:
    if isinstance(node, Compute):
        return []
    expected = {tuple(line) for line in lines}
    if isinstance(node, Permute):
        expected = {
            (source, line[(place + node.shift) % len(line)])
            for line in lines
            for place, source in enumerate(line)
        }
    if set(instruction.groups) == expected:
        return []
    return [f"`{node.name}` is between {instruction.groups} instead of {sorted(expected)}"]


def _strays(parts: Sequence[Part], graph: HloGraph) -> list[str]:
    """Communication that no schedule has."""
    known = {part.label(node) for part in parts for node in part.schedule.nodes}
    return [
        f"no schedule has the {one.opcode} {one.name} (scope `{one.label}`)"
        for one in graph.instructions.values()
        if one.opcode in COLLECTIVES and one.label not in known
    ]


def _compare_part(
    part: Part,
    parts: Sequence[Part],
    found: Mapping[str, str],
    expected: Reach,
    graph: HloGraph,
) -> Comparison:
    moving = [
        other.label(node)
        for other in parts
        for node in other.schedule.nodes
        if not isinstance(node, Compute)
    ]
    num_pairs = num_free = 0
    problems = lost_order(part, moving, found, graph)
    for product in (part.label(node) for node in part.schedule.nodes if is_product(node)):
        for moved in moving:
            pairs = ((moved, product), (product, moved))
            waits = [graph.before(found[first], found[second]) for first, second in pairs]
            num_pairs += 1
            num_free += not any(waits)
            for (first, second), has_to in zip(pairs, waits, strict=True):
                if has_to != expected.before(first, second):
                    does, should = ("waits", "not") if has_to else ("does not wait", "it")
                    problems.append(
                        f"in the graph `{second}` {does} for `{first}`, in the schedule {should}"
                    )
    return Comparison(num_pairs, num_free, _given_up(part, expected), problems)


def lost_order(
    part: Part, moving: Sequence[str], found: Mapping[str, str], graph: HloGraph
) -> list[str]:
    """Communications of this part that the graph does not keep in the order of recording."""
    own = {part.label(node) for node in part.schedule.nodes}
    return [
        f"the graph does not keep `{first}` before `{second}`"
        for first, second in pairwise(moving)
        if second in own and not graph.before(found[first], found[second])
    ]


def _given_up(part: Part, expected: Reach) -> list[tuple[str, str]]:
    nodes = {node.name: node for node in part.schedule.nodes}
    return [
        (moved, computed)
        for moved, computed in Order(part.schedule).concurrent()
        if is_product(nodes[computed])
        and (
            expected.before(part.label(nodes[moved]), part.label(nodes[computed]))
            or expected.before(part.label(nodes[computed]), part.label(nodes[moved]))
        )
    ]

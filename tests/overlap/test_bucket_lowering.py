"""A graph that says what the schedule of the buckets says passes; every other one is found.

The graphs are made from the schedules, an instruction a node, with one token through all
communications as torch-xla has it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from ndtrain.overlap.bucket_lowering import compare_buckets
from ndtrain.overlap.buckets import bucket_schedule
from ndtrain.overlap.hlo import HloGraph, Instruction, Reach
from ndtrain.overlap.lowering import Comparison
from ndtrain.overlap.schedule import AllGather, Compute, Schedule
from tests.overlap.cases import BUCKET_ORDER

LINES = ((0, 1),)
Instructions = dict[str, Instruction]


def instructions_of(schedule: Schedule) -> Instructions:
    """Of a node's name, without the next forward's."""
    made: Instructions = {"batch": Instruction("batch", "parameter", (), "", ())}
    token: tuple[str, ...] = ()
    for node in schedule.nodes:
        label = f"{schedule.name}.{node.name}"
        if node.name.startswith("forward"):
            continue
        if isinstance(node, Compute):
            made[node.name] = Instruction(node.name, "add", node.dependencies, label, ())
        else:
            opcode = "all-gather" if isinstance(node, AllGather) else "reduce-scatter"
            reads = (*node.dependencies, *token)
            made[node.name] = Instruction(node.name, opcode, reads, label, LINES)
            token = (node.name,)
    return made


def compared(schedule: Schedule, instructions: Mapping[str, Instruction]) -> Comparison:
    return compare_buckets(schedule, HloGraph(instructions), LINES)


def kinds(schedule: Schedule) -> tuple[set[str], set[str]]:
    """(communications, compute) that are in the graph."""
    some = [node for node in schedule.nodes if not node.name.startswith("forward")]
    computed = {node.name for node in some if isinstance(node, Compute)}
    return {node.name for node in some} - computed, computed


@pytest.mark.parametrize("in_background", [False, True])
def test_the_schedule_itself_passes(in_background: bool) -> None:
    schedule = bucket_schedule(BUCKET_ORDER, in_background)
    found = compared(schedule, instructions_of(schedule))
    assert found.problems == found.given_up == []
    assert found.num_pairs == 8 * 9
    # Each reduction beside the gradients after it, each gather beside the updates after it.
    assert found.num_free == (2 * (3 + 2 + 1) if in_background else 0)


@pytest.mark.parametrize("in_background", [False, True])
def test_each_dependency_that_the_graph_lacks_is_found(in_background: bool) -> None:
    """One at a time, unless others imply it; and each that the schedule does not have."""
    schedule = bucket_schedule(BUCKET_ORDER, in_background)
    instructions = instructions_of(schedule)
    moving, computing = kinds(schedule)
    num_lost = num_needless = 0
    whole = Reach({name: one.operands for name, one in instructions.items()})
    for place, (name, one) in enumerate(instructions.items()):
        for other in list(instructions)[1:place]:
            is_pair = {name, other} & moving and {name, other} & computing
            if not is_pair:
                continue
            if other in one.operands:
                reads = tuple(read for read in one.operands if read != other)
                num_lost += 1
            elif not whole.before(other, name):
                reads = (*one.operands, other)
                num_needless += 1
            else:
                continue
            mutant = instructions | {name: replace(one, operands=reads)}
            reach = Reach({key: some.operands for key, some in mutant.items()})
            is_implied = other in one.operands and reach.before(other, name)
            assert bool(compared(schedule, mutant).problems) != is_implied, (name, other)
    assert num_lost >= 4 * 4
    assert num_needless == (2 * (3 + 2 + 1) if in_background else 0)


def without(name: str) -> Callable[[Instructions], Instructions]:
    def mutate(instructions: Instructions) -> Instructions:
        kept = {key: one for key, one in instructions.items() if key != name}
        return {
            key: replace(one, operands=tuple(read for read in one.operands if read != name))
            for key, one in kept.items()
        }

    return mutate


def second_gather(instructions: Instructions) -> Instructions:
    gather = instructions["gather_2"]
    return instructions | {"again": replace(gather, name="again", operands=("gather_2",))}


def stray(instructions: Instructions) -> Instructions:
    gather = instructions["gather_2"]
    return instructions | {"stray": replace(gather, name="stray", label="layers.0.o.gather")}


def other_groups(instructions: Instructions) -> Instructions:
    return instructions | {"scatter_1": replace(instructions["scatter_1"], groups=((1, 0),))}


def one_gradient_late(instructions: Instructions) -> Instructions:
    late = replace(instructions["gradients_1"], name="late")
    return instructions | {"late": late}


def swapped(instructions: Instructions) -> Instructions:
    """The second reduction no longer behind the first."""
    second = replace(instructions["scatter_1"], operands=("gradients_1",))
    return instructions | {"scatter_1": second}


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (without("update_2"), "nothing of `update_2` is in the graph"),
        (without("scatter_3"), "`scatter_3` is 0 reduce-scatter in the graph"),
        (second_gather, "`gather_2` is 2 all-gather in the graph"),
        (stray, "the schedule does not have the all-gather stray (scope `layers.0.o.gather`)"),
        (other_groups, "`scatter_1` is between ((1, 0),) instead of [(0, 1)]"),
        (one_gradient_late, "in the graph `scatter_1` does not wait for `gradients_1`"),
        (swapped, "the graph does not keep `buckets.scatter_0` before `buckets.scatter_1`"),
    ],
)
def test_other_mistakes_are_found(mutate, message: str) -> None:
    schedule = bucket_schedule(BUCKET_ORDER, True)
    found = compared(schedule, mutate(instructions_of(schedule)))
    assert any(message in problem for problem in found.problems), found.problems


def test_what_waits_through_another_axis_is_given_up() -> None:
    """A layer's all-gather stands behind the first reduction; the next gradients need it."""
    schedule = bucket_schedule(BUCKET_ORDER, True)
    instructions = instructions_of(schedule)
    layer = Instruction("layer", "all-gather", ("scatter_0",), "layers.0.o.gather", ((0, 2),))
    items = list(instructions.items())
    place = list(instructions).index("scatter_0") + 1
    mixed = dict([*items[:place], ("layer", layer), *items[place:]])
    mixed["gradients_1"] = replace(mixed["gradients_1"], operands=("batch", "layer"))
    found = compared(schedule, mixed)
    assert found.problems == []
    assert found.given_up == [("scatter_0", "gradients_1")]
    assert found.num_free == 11

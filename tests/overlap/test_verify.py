"""The verifier passes what is right and finds every mistake planted in random schedules."""

import dataclasses
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ndtrain.overlap.buffers import placements
from ndtrain.overlap.operations import Join, Linear
from ndtrain.overlap.schedule import Compute, Permute, Schedule, ScheduleBuilder, Stream
from ndtrain.overlap.verify import verify, verify_rank
from tests.overlap.cases import ALL_SCHEDULES, build
from tests.overlap.random_schedules import right_schedules, with_nodes

SIZE = 4
many = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 32])
@pytest.mark.parametrize(("operation", "mode"), ALL_SCHEDULES)
def test_every_schedule_of_ours_is_right(operation, mode, size):
    assert verify(lambda rank: build(operation, mode, size, rank), size) == []


@many
@given(right_schedules())
def test_random_right_schedules_pass(schedule):
    assert verify(lambda rank: schedule, SIZE) == []


def runs_without(
    schedule: Schedule, waits: Mapping[str, Sequence[str]], writer: str, reader: str
) -> bool:
    """Whether `reader` runs in an execution in which `writer` takes for ever."""
    done = {*schedule.inputs}
    stuck: set[Stream] = set()
    progress = True
    while progress:
        progress = False
        stuck.clear()
        for node in schedule.nodes:
            if node.name in done or node.stream in stuck:
                continue
            if node.name == writer or not done.issuperset(waits[node.name]):
                stuck.add(node.stream)
            else:
                done.add(node.name)
                progress = True
    return reader in done


@many
@given(right_schedules(), st.data())
def test_a_missing_wait_is_found_exactly_when_some_timing_makes_it_matter(schedule, data):
    waits = {node.name: list(node.dependencies) for node in schedule.nodes}
    edges = [(node.name, name) for node in schedule.nodes for name in node.inputs]
    for reader, name in data.draw(st.lists(st.sampled_from(edges), min_size=1, max_size=3)):
        waits[reader] = [other for other in waits[reader] if other != name]
    problems = verify_rank(schedule, waits)
    made = {node.name for node in schedule.nodes}
    for reader, writer in edges:
        if writer in made:
            is_found = f"`{reader}` may read `{writer}` before it is made" in problems
            assert is_found == runs_without(schedule, waits, writer, reader)


@many
@given(right_schedules("permute", "all_gather"), st.data())
def test_communications_in_another_order_on_one_rank_are_found(schedule, data):
    moving = [i for i, node in enumerate(schedule.nodes) if not isinstance(node, Compute)]
    pairs = st.tuples(st.sampled_from(moving), st.sampled_from(moving))
    first, second = data.draw(pairs.filter(lambda pair: pair[0] != pair[1]))
    nodes = list(schedule.nodes)
    nodes[first], nodes[second] = nodes[second], nodes[first]
    odd, rank = with_nodes(schedule, nodes), data.draw(st.integers(0, SIZE - 1))
    problems = verify(lambda other: odd if other == rank else schedule, SIZE)
    assert any("where rank 0" in problem for problem in problems)


@many
@given(right_schedules("join", "linear", "permute"), st.data())
def test_a_value_used_before_it_is_made_is_found(schedule, data):
    made = {node.name for node in schedule.nodes}
    edges = [
        (name, node.name) for node in schedule.nodes for name in node.dependencies if name in made
    ]
    assume(edges)
    writer, reader = data.draw(st.sampled_from(edges))
    nodes = [node for node in schedule.nodes if node.name != writer]
    (moved,) = (node for node in schedule.nodes if node.name == writer)
    place = next(i for i, node in enumerate(nodes) if node.name == reader)
    nodes.insert(place + 1, moved)
    odd = with_nodes(schedule, nodes)
    problems = verify(lambda rank: odd, SIZE)
    assert f"every rank: `{reader}` needs `{writer}`, which is issued after it" in problems


@many
@given(right_schedules("permute"), st.data())
def test_another_shift_on_one_rank_is_found(schedule, data):
    hops = [i for i, node in enumerate(schedule.nodes) if isinstance(node, Permute)]
    place, rank = data.draw(st.sampled_from(hops)), data.draw(st.integers(0, SIZE - 1))
    nodes = list(schedule.nodes)
    nodes[place] = dataclasses.replace(nodes[place], shift=2)
    odd = with_nodes(schedule, nodes)
    problems = verify(lambda other: odd if other == rank else schedule, SIZE)
    assert any("does not receive it" in problem for problem in problems)
    assert any(problem.startswith("deadlock") for problem in problems)


@many
@given(right_schedules("join", "linear", "permute"), st.data())
def test_values_in_a_wrong_block_are_found(schedule, data):
    places = placements(schedule)
    assume(places)
    name = data.draw(st.sampled_from(sorted(places)))
    join, block = places[name]
    problems = verify_rank(schedule, places=places | {name: (join, block + 1)})
    assert any(f"`{name}` lies in block {block + 1}" in problem for problem in problems)


@many
@given(right_schedules("join", "linear", "permute"), st.data())
def test_two_values_in_one_block_are_found(schedule, data):
    places = placements(schedule)
    assume(len(places) >= 2)
    two = st.lists(st.sampled_from(sorted(places)), min_size=2, max_size=2, unique=True)
    first, second = data.draw(two)
    problems = verify_rank(schedule, places=places | {second: places[first]})
    assert any("both lie in" in problem for problem in problems)


@many
@given(right_schedules("join", "linear", "permute"), st.data())
def test_a_join_before_its_parts_is_found(schedule, data):
    places = placements(schedule)
    assume(places)
    name = data.draw(st.sampled_from(sorted(places)))
    join, block = places[name]
    waits = {node.name: list(node.dependencies) for node in schedule.nodes}
    waits[join] = [other for other in waits[join] if other != name]
    found = f"`{join}` may be read before `{name}` is in its block {block}"
    assert (found in verify_rank(schedule, waits)) == runs_without(schedule, waits, name, join)


def test_what_is_overwritten_while_it_is_read_is_found():
    """The statistics of the logits read them before their gradient takes their place."""
    schedule = build("head", "off", SIZE, 1)
    names = [node.name for node in schedule.nodes]
    place = names.index("dlogits_0_0")
    reader = dataclasses.replace(
        schedule.nodes[names.index("own_0_0")], name="late", inputs=("logits_0_0", "target_0_0")
    )
    late = with_nodes(
        schedule, [*schedule.nodes[: place + 1], reader, *schedule.nodes[place + 1 :]]
    )
    found = "`dlogits_0_0` may overwrite `logits_0_0` before `late` has read it"
    assert found in verify_rank(late)
    shared = dataclasses.replace(schedule, outputs=("logits_0_0",))
    assert "`dlogits_0_0` overwrites `logits_0_0`, which is not its own" in verify_rank(shared)


def test_two_values_of_one_name_are_found():
    nodes = [
        Compute("y", Stream.COMPUTE, ("x", "weight"), (), Linear()),
        Compute("y", Stream.COMPUTE, ("x", "weight"), (), Linear()),
    ]
    schedule = Schedule("twice", ("x", "weight"), tuple(nodes), ("y",))
    assert verify_rank(schedule) == ["2 values are called `y`"]


def test_names_that_nothing_makes_are_found():
    graph = ScheduleBuilder("missing", ("x",))
    graph.permute("hop", "z", 1, Stream.GATHER)
    assert verify_rank(graph.finish(("hop", "w"))) == [
        "`hop` needs `z`, which is made by nothing",
        "the output `w` is made by nothing",
    ]


@pytest.mark.parametrize("order", [(0, 0), (1, 2), (0,)])
def test_a_join_that_leaves_a_block_out_is_found(order):
    graph = ScheduleBuilder("join", ("x", "weight"))
    parts = [graph.compute(f"part_{i}", Linear(), ("x", "weight")) for i in range(2)]
    graph.compute("joined", Join(order), parts)
    assert any("block" in problem for problem in verify_rank(graph.finish(("joined",))))


def crossed(rank: int) -> Schedule:
    """Each rank begins another stream first and makes the other one wait for it."""
    graph = ScheduleBuilder("crossed", ("x",))
    if rank == 0:
        graph.reduce_scatter("scatter", "x", after=(graph.all_gather("gather", "x"),))
    else:
        graph.all_gather("gather", "x", after=(graph.reduce_scatter("scatter", "x"),))
    return graph.finish(("gather", "scatter"))


def test_streams_that_wait_for_each_other_across_ranks_are_a_deadlock():
    stuck = [problem for problem in verify(crossed, 2) if problem.startswith("deadlock")]
    assert stuck == [
        "deadlock: rank 0 never ends `gather` on gather",
        "deadlock: rank 0 never ends `scatter` on scatter",
        "deadlock: rank 1 never ends `scatter` on scatter",
        "deadlock: rank 1 never ends `gather` on gather",
    ]


def test_a_rank_that_issues_less_is_found():
    def schedule(rank: int) -> Schedule:
        graph = ScheduleBuilder("short", ("x",))
        graph.all_gather("first", "x")
        if rank != 1:
            graph.all_gather("second", "x")
        return graph.finish(("first",))

    problems = verify(schedule, 3)
    assert "rank 1 issues 1 communications, rank 0 2" in problems
    assert "deadlock: rank 0 never ends `second` on gather" in problems


def test_a_hop_to_oneself_is_found():
    def schedule(rank: int) -> Schedule:
        graph = ScheduleBuilder("alone", ("x",))
        return graph.finish((graph.permute("hop", "x", 2, Stream.GATHER),))

    assert verify(schedule, 2)[0] == "rank 0 sends `hop` to itself"

"""Delays on every stream change no bit, and each dependency is one that something would miss."""

import functools

import pytest

from ndtrain.overlap.operations import Join
from ndtrain.overlap.order import Order
from ndtrain.overlap.schedule import Compute, Schedule
from ndtrain.overlap.verify import verify_rank
from tests.overlap.cases import ALL_SCHEDULES, build
from tests.overlap.delays import Delayed, Edge, run_delayed, run_mutants
from tests.overlap.random_schedules import with_nodes
from tests.rank_pool import ranks

SEEDS = list(range(9))
MANY_SEEDS = list(range(100))
# Of so many seeds some show another order, also where a machine is as slow as the delays are long.
SHORT_DELAY_S = 0.001


@functools.cache
def delayed(size: int) -> list[dict]:
    return ranks(size).run(run_delayed, size, SEEDS, ALL_SCHEDULES)


def leaves_order_open(schedule: Schedule) -> bool:
    """Whether nodes that show up in a trace may end in different orders."""
    # Joins in place run no code.
    joins = {
        node.name
        for node in schedule.nodes
        if isinstance(node, Compute) and isinstance(node.operation, Join)
    }
    return any(computed not in joins for _, computed in Order(schedule).concurrent())


def check(results: list[dict], size: int, operation: str, mode: str) -> None:
    orders = set()
    for rank_results in results:
        result: Delayed = rank_results[operation, mode]
        assert result.num_different == 0
        orders |= result.orders
    is_open = leaves_order_open(build(operation, mode, size, 0))
    assert (len(orders) > 1) == is_open


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("operation", "mode"), ALL_SCHEDULES)
def test_under_delays_orders_differ_and_bits_do_not(operation, mode, size):
    check(delayed(size), size, operation, mode)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_under_a_hundred_seeds_of_delays_bits_do_not_differ(size):
    results = ranks(size).run(run_delayed, size, MANY_SEEDS, ALL_SCHEDULES, SHORT_DELAY_S)
    for operation, mode in ALL_SCHEDULES:
        check(results, size, operation, mode)


def dependencies(schedule: Schedule) -> list[tuple[str, str]]:
    """(reader, value made by another node), inputs and `after` alike."""
    made = {node.name for node in schedule.nodes}
    return [
        (node.name, name)
        for node in schedule.nodes
        for name in dict.fromkeys(node.dependencies)
        if name in made
    ]


def order_without(schedule: Schedule, reader: str, name: str) -> tuple[Order, dict]:
    waits = {node.name: list(node.dependencies) for node in schedule.nodes}
    waits[reader] = [other for other in waits[reader] if other != name]
    return Order(schedule, waits), waits


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("operation", "mode"), ALL_SCHEDULES)
def test_the_verifier_catches_each_dependency_that_is_deleted(operation, mode, size):
    """One at a time. What the order of a stream implies anyway is caught when that is changed.

    An `after` is no data: without it a blocking form overlaps, which is what it must not do.
    """
    schedule = build(operation, mode, size, 1)
    inputs = {(node.name, name) for node in schedule.nodes for name in node.inputs}
    assert verify_rank(schedule) == []
    for reader, name in dependencies(schedule):
        order, waits = order_without(schedule, reader, name)
        problems = verify_rank(schedule, waits)
        if order.before(name, reader):
            assert problems == []
            assert moved_before(schedule, name, reader) != []
        elif (reader, name) in inputs:
            assert f"`{reader}` may read `{name}` before it is made" in problems
        else:
            assert set(order.concurrent()) > set(Order(schedule).concurrent())


def moved_before(schedule: Schedule, name: str, reader: str) -> list[str]:
    """The problems when `reader` is issued before `name`."""
    nodes = [node for node in schedule.nodes if node.name != reader]
    place = next(i for i, node in enumerate(nodes) if node.name == name)
    (moved,) = (node for node in schedule.nodes if node.name == reader)
    return verify_rank(with_nodes(schedule, [*nodes[:place], moved, *nodes[place:]]))


def waits_for_communication(size: int) -> list[Edge]:
    """Every wait of compute for a communication that nothing else implies."""
    edges: list[Edge] = []
    for operation, mode in ALL_SCHEDULES:
        schedule = build(operation, mode, size, 1)
        moving = {node.name for node in schedule.nodes if not isinstance(node, Compute)}
        for node in schedule.nodes:
            for name in node.inputs:
                is_wait = isinstance(node, Compute) and name in moving
                if is_wait and not order_without(schedule, node.name, name)[0].before(
                    name, node.name
                ):
                    edges.append((operation, mode, node.name, name))
    return edges


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_results_show_each_wait_for_a_communication_that_is_left_out(size):
    """The mutant reads memory as it is; seed 2 delays communication alone."""
    edges = waits_for_communication(size)
    # Compute waits for no communication, or for none that its stream did not wait for before.
    free = {("matmul_scatter", "off"), ("matmul_scatter", "bulk")}
    assert {edge[:2] for edge in edges} == {*ALL_SCHEDULES} - free
    for caught in ranks(size).run(run_mutants, size, edges, [2]):
        assert [edge for edge, is_caught in caught.items() if not is_caught] == []

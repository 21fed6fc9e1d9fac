"""Communication really runs beside compute, proved by events and not by time; failures surface.

A communication that ends only after a later compute node has begun: it ends if the two run at
once, and can never end if one waits for the other.
"""

import threading

import pytest
import torch

from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.execute import execute
from ndtrain.overlap.operations import InputGradient, Linear, WeightGradient
from ndtrain.overlap.order import Order
from ndtrain.overlap.schedule import Compute, Schedule, Stream
from ndtrain.runtime.streams import HostPending, StreamError
from tests.overlap.cases import ALL_SCHEDULES, EVERY_SCHEDULE, OPERATIONS, build, inputs
from tests.overlap.lone import Blocking, Told, lone

SIZE, RANK = 4, 1
LONG_S = 60.0  # until the test is taken for failed
SHORT_S = 0.05  # what cannot happen does not happen later either
OVERLAPPED = [
    *[(operation, mode) for operation in OPERATIONS for mode in ("chunk", "ring", "ring2")],
    ("column_backward", "bulk"),
    ("head", "chunk"),
    ("buckets", "bulk"),
]


def later_compute(schedule: Schedule) -> list[tuple[str, str]]:
    """(communication, compute issued after it that does not need it)."""
    place = {node.name: i for i, node in enumerate(schedule.nodes)}
    return [(m, c) for m, c in Order(schedule).concurrent() if place[c] > place[m]]


def shake_hands(
    operation: str,
    mode: Mode,
    pair: tuple[str, str],
    timeout_s: float,
    stream: type[Told] = Told,
    serial: bool = False,
) -> None:
    """Runs the schedule with pair[0] waiting until pair[1] has begun."""
    moved, computed = (f"{operation}.{name}" for name in pair)
    has_begun = threading.Event()

    def before(name: str) -> None:
        if name == moved and not has_begun.wait(timeout_s):
            raise TimeoutError("no compute beside it")

    def before_compute(name: str) -> None:
        if name == computed:
            has_begun.set()

    runtime = lone(SIZE, RANK, before, before_compute, stream)
    tensors = inputs(operation, SIZE, RANK, torch.float32)
    execute(build(operation, mode, SIZE, RANK), tensors, runtime, runtime.mesh.tensor, serial)


@pytest.mark.parametrize(("operation", "mode"), OVERLAPPED)
def test_compute_begins_while_a_communication_is_under_way(operation, mode):
    schedule = build(operation, mode, SIZE, RANK)
    in_place = {"gathered", "joined_product"}  # joins of which no code runs
    pairs = [pair for pair in later_compute(schedule) if pair[1] not in in_place]
    assert pairs
    for pair in pairs:
        shake_hands(operation, mode, pair, LONG_S)


@pytest.mark.parametrize(("operation", "mode"), OVERLAPPED)
def test_a_blocking_communication_fails_the_handshake(operation, mode):
    """The mutant of the test above: serial, and with each stream made blocking."""
    pair = later_compute(build(operation, mode, SIZE, RANK))[0]
    with pytest.raises(StreamError, match=f"{operation}.{pair[0]} failed: no compute beside it"):
        shake_hands(operation, mode, pair, SHORT_S, serial=True)
    with pytest.raises(StreamError, match=f"{operation}.{pair[0]} failed: no compute beside it"):
        shake_hands(operation, mode, pair, SHORT_S, Blocking)


@pytest.mark.parametrize(("operation", "mode"), EVERY_SCHEDULE)
def test_which_communications_have_a_product_beside_them(operation, mode):
    """All of both rings; in chunks all but the first gather or the last scatter; blocking none."""
    schedule = build(operation, mode, SIZE, RANK)
    products = {
        node.name
        for node in schedule.nodes
        if isinstance(node, Compute)
        and isinstance(node.operation, (Linear, InputGradient, WeightGradient))
    }
    moving = {node.name for node in schedule.nodes if not isinstance(node, Compute)}
    hidden = {moved for moved, computed in Order(schedule).concurrent() if computed in products}
    bare = {
        "off": moving,
        "bulk": set() if operation == "column_backward" else moving,
        "chunk": {
            "gather_matmul": {"gather_0"},
            "matmul_scatter": {"scatter_1"},
            "column_backward": set(),
            "row_backward": {"gather_0"},
        }[operation],
        "ring": set(),
        "ring2": set(),
    }[mode]
    assert moving - hidden == bare


@pytest.mark.parametrize("serial", [False, True])
@pytest.mark.parametrize(("operation", "mode"), ALL_SCHEDULES)
def test_a_failed_communication_raises_in_the_main_thread_with_its_name(operation, mode, serial):
    schedule = build(operation, mode, SIZE, RANK)
    for node in schedule.nodes:
        if node.stream is Stream.COMPUTE:
            continue
        failing = f"{operation}.{node.name}"

        def before(name: str, failing: str = failing) -> None:
            if name == failing:
                raise ConnectionError("the link is down")

        runtime = lone(SIZE, RANK, before)
        tensors = inputs(operation, SIZE, RANK, torch.float32)
        with pytest.raises(StreamError, match=f"{failing} failed: the link is down"):
            execute(schedule, tensors, runtime, runtime.mesh.tensor, serial)


@pytest.mark.parametrize(("operation", "mode"), ALL_SCHEDULES)
def test_a_communication_that_hangs_raises_in_the_main_thread_with_its_name(
    operation, mode, monkeypatch
):
    monkeypatch.setattr(HostPending.wait, "__defaults__", (SHORT_S,))
    schedule = build(operation, mode, SIZE, RANK)
    for node in schedule.nodes:
        if node.stream is Stream.COMPUTE:
            continue
        hanging, end = f"{operation}.{node.name}", threading.Event()

        def before(name: str, hanging: str = hanging, end: threading.Event = end) -> None:
            if name == hanging:
                end.wait(LONG_S)

        runtime = lone(SIZE, RANK, before)
        tensors = inputs(operation, SIZE, RANK, torch.float32)
        try:
            with pytest.raises(StreamError, match=f"{hanging} has not ended"):
                execute(schedule, tensors, runtime, runtime.mesh.tensor)
        finally:
            end.set()

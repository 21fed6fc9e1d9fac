"""A schedule whose compute is elsewhere: issued in its order, waited for where it says.

That a bucket is gathered while the next is updated is proved by events: the gather ends only after
the next update has begun.
"""

import threading
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ndtrain.overlap.buckets import ELSEWHERE, bucket_schedule
from ndtrain.overlap.order import Order
from ndtrain.overlap.schedule import Compute
from ndtrain.overlap.unfold import Unfolding
from ndtrain.overlap.verify import verify_rank
from ndtrain.runtime.streams import StreamError
from tests.overlap.cases import BUCKET_ORDER, BUCKET_WORK, inputs
from tests.overlap.lone import Blocking, Told, do_nothing, lone

SIZE, RANK = 4, 1
LONG_S, SHORT_S = 60.0, 0.05
UPDATES = (3, 2, 1, 0)


def unfold(schedule, runtime, serial: bool = False, out_of_order: bool = False) -> list[Tensor]:
    """Does the compute of the schedule, telling an Unfolding before and after."""
    unfolding = Unfolding(schedule, runtime, runtime.mesh.tensor, serial)
    (batch,) = inputs("buckets", SIZE, RANK, torch.float32)
    nodes = [node for node in schedule.nodes if isinstance(node, Compute)]
    if out_of_order:  # a later bucket is complete first
        nodes[0], nodes[1] = nodes[1], nodes[0]
    for node in nodes:
        unfolding.begin(node.name)
        read = [batch if name == "batch" else unfolding.value(name) for name in node.inputs]
        with runtime.compute(f"buckets.{node.name}"):
            value = node.operation(*read)
        unfolding.done(node.name, value)
    assert unfolding.under_way == []
    return [unfolding.value(name) for name in schedule.outputs]


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize("out_of_order", [False, True])
def test_collectives_are_issued_in_the_order_of_the_schedule(in_background, out_of_order):
    issued: list[str] = []
    schedule = bucket_schedule(BUCKET_ORDER, in_background, BUCKET_WORK)
    runtime = lone(SIZE, RANK, issued.append)
    outputs = unfold(schedule, runtime, out_of_order=out_of_order)
    expected = [f"buckets.scatter_{bucket}" for bucket in BUCKET_ORDER]
    expected += [f"buckets.gather_{bucket}" for bucket in UPDATES]
    assert issued == expected
    serial = unfold(schedule, lone(SIZE, RANK), serial=True)
    assert all(torch.equal(y, other) for y, other in zip(outputs, serial, strict=True))


def hidden_pairs() -> list[tuple[str, str]]:
    """(communication, compute that has to begin while it is under way)."""
    scatters = [(f"scatter_{a}", f"gradients_{b}") for a, b in pairwise(BUCKET_ORDER)]
    return scatters + [(f"gather_{a}", f"update_{b}") for a, b in pairwise(UPDATES)]


def shake_hands(
    pair: tuple[str, str],
    timeout_s: float,
    stream: type[Told] = Told,
) -> None:
    """The communication ends when the compute has begun, or never."""
    moved, computed = (f"buckets.{name}" for name in pair)
    has_begun = threading.Event()

    def before(name: str) -> None:
        if name == moved and not has_begun.wait(timeout_s):
            raise TimeoutError("no compute beside it")

    def before_compute(name: str) -> None:
        if name == computed:
            has_begun.set()

    runtime = lone(SIZE, RANK, before, before_compute, stream)
    unfold(bucket_schedule(BUCKET_ORDER, True, BUCKET_WORK), runtime)


@pytest.mark.parametrize("pair", hidden_pairs())
def test_buckets_travel_while_the_next_one_computes(pair):
    shake_hands(pair, LONG_S)


@pytest.mark.parametrize("pair", hidden_pairs())
def test_blocking_streams_fail_the_handshake(pair):
    """The mutant: streams that wait for what they are given."""
    with pytest.raises(StreamError, match=f"buckets.{pair[0]} failed: no compute beside it"):
        shake_hands(pair, SHORT_S, Blocking)


@pytest.mark.parametrize("pair", hidden_pairs())
def test_in_the_blocking_form_no_later_bucket_is_left_to_compute(pair):
    moved, computed = pair
    assert Order(bucket_schedule(BUCKET_ORDER, in_background=False)).before(computed, moved)


def test_compute_out_of_the_order_of_the_schedule_is_an_error():
    schedule = bucket_schedule(BUCKET_ORDER, True, BUCKET_WORK)
    runtime = lone(SIZE, RANK, do_nothing)
    unfolding = Unfolding(schedule, runtime, runtime.mesh.tensor)
    with pytest.raises(AssertionError, match="scatter_0 has not begun"):
        unfolding.begin("norm")
    unfolding.done("gradients_0", torch.ones(4))
    with pytest.raises(AssertionError, match="gradients_0 was done before"):
        unfolding.done("gradients_0", torch.ones(4))


def test_a_failed_bucket_raises_in_the_main_thread_with_its_name():
    def before(name: str) -> None:
        if name == "buckets.gather_1":
            raise ConnectionError("the link is down")

    schedule = bucket_schedule(BUCKET_ORDER, True, BUCKET_WORK)
    with pytest.raises(StreamError, match=r"buckets\.gather_1 failed: the link is down"):
        unfold(schedule, lone(SIZE, RANK, before))


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize("num_buckets", [1, 2, 7])
def test_schedules_of_any_number_of_buckets_are_right(num_buckets, in_background):
    schedule = bucket_schedule(range(num_buckets), in_background)
    assert verify_rank(schedule) == []
    with pytest.raises(AssertionError, match="backward is computed elsewhere"):
        ELSEWHERE.gradients(0)()

"""Timelines worked out by hand: one FLOP, or one byte over the link, takes a second."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from ndtrain.overlap.collective_matmul import gather_matmul
from ndtrain.overlap.node_cost import node_costs
from ndtrain.overlap.operations import Linear
from ndtrain.overlap.schedule import Schedule, ScheduleBuilder, Stream
from ndtrain.overlap.timeline import Figures, Timeline, TimelineSpan, simulate
from ndtrain.runtime.place import Place
from tests.overlap.cases import EVERY_SCHEDULE, build, meta_inputs

UNIT = Figures(matmul_flops=1.0, memory_bytes_per_s=math.inf, link_bytes_per_s=1.0)


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


# Two rows of width 1 (8 bytes) by two columns: 8 FLOPs a shard.
X, WEIGHT = meta(2, 1, 1), meta(2, 1)


def times(timeline: Timeline) -> dict[str, tuple[float, float]]:
    return {span.name: (span.start_s, span.stop_s) for span in timeline.spans}


def ring(**changes: float) -> Timeline:
    figures = dataclasses.replace(UNIT, **changes)
    return simulate(gather_matmul("y", Place(0, 2), "ring"), (X, WEIGHT), 2, figures)


def test_a_ring_hides_its_hop():
    timeline = ring()
    assert times(timeline) == {
        "hop_1": (0, 8),
        "product_0": (0, 8),
        "product_1": (8, 16),
        "joined_product": (16, 16),
    }
    assert timeline.makespan_s == 16
    assert (timeline.compute_s, timeline.communication_s, timeline.exposed_s) == (16, 8, 0)
    assert timeline.efficiency == 1
    assert timeline.compute_slowdown == 1


def test_blocking_hides_nothing():
    timeline = simulate(gather_matmul("y", Place(0, 2), "off"), (X, WEIGHT), 2, UNIT)
    assert times(timeline) == {"gather": (0, 8), "product": (8, 24)}
    assert timeline.exposed_s == 8
    assert timeline.efficiency == 0


def test_serially_a_ring_hides_nothing_either():
    timeline = simulate(gather_matmul("y", Place(0, 2), "ring"), (X, WEIGHT), 2, UNIT, serial=True)
    assert times(timeline)["hop_1"] == (0, 8)
    assert times(timeline)["product_0"] == (8, 16)
    assert timeline.makespan_s == 24
    assert timeline.efficiency == 0


def test_latency_and_overhead_are_paid_for_each_node():
    timeline = ring(link_latency_s=1.0, node_overhead_s=0.5)
    assert times(timeline) == {
        "hop_1": (0, 9.5),
        "product_0": (0, 8.5),
        "product_1": (9.5, 18),
        "joined_product": (18, 18.5),
    }
    assert timeline.exposed_s == 1


def test_bytes_that_move_take_compute_away():
    timeline = ring(stolen_s_per_byte=0.5)
    assert times(timeline)["product_0"] == (0, 12)  # half as fast until 8, then 4 more
    assert times(timeline)["product_1"] == (12, 20)
    assert timeline.compute_slowdown == 20 / 16
    assert timeline.compute_s == 16


def test_a_link_is_no_faster_than_the_compute_that_drives_it():
    timeline = ring(stolen_s_per_byte=2.0)
    assert times(timeline)["hop_1"] == (0, 16)
    assert times(timeline)["product_0"] == (0, 24)  # nothing is left for it until 16
    assert timeline.makespan_s == 32


def test_memory_traffic_counts_where_it_takes_longer_than_the_flops():
    # product: 8 + 8 bytes read, 16 written; 8 FLOPs.
    timeline = ring(memory_bytes_per_s=1.0)
    assert times(timeline)["product_0"] == (0, 32)
    assert times(timeline)["joined_product"] == (64, 64)  # in place


def two_streams() -> Schedule:
    graph = ScheduleBuilder("two", ("x", "z"))
    graph.all_gather("gather", "x")
    graph.permute("hop", "z", 1, Stream.SCATTER)
    return graph.finish(("gather", "hop"))


def test_streams_share_the_link():
    timeline = simulate(two_streams(), (X, meta(1, 1, 1)), 2, UNIT)
    # 4 bytes each at half rate, then the rest of the gather alone.
    assert times(timeline) == {"hop": (0, 8), "gather": (0, 12)}


def test_a_reduce_scatter_adds_after_its_bytes_have_come():
    graph = ScheduleBuilder("sum", ("x",))
    graph.reduce_scatter("scatter", "x")
    figures = dataclasses.replace(UNIT, memory_bytes_per_s=1.0)
    timeline = simulate(graph.finish(("scatter",)), (X,), 2, figures)
    assert times(timeline) == {"scatter": (0, 4 + 8 + 4)}  # sent, parts read, sum written


def test_a_join_copies_what_was_not_made_in_place():
    schedule = build("column_backward", "ring", 2, 0)
    figures = dataclasses.replace(UNIT, memory_bytes_per_s=1.0)
    costs = node_costs(schedule, (meta(4, 1, 2), X, WEIGHT), 2, figures)
    assert costs["gathered"].seconds == 2 * X.nbytes  # own rows; the hop landed in place


def compute_then_hop() -> Schedule:
    graph = ScheduleBuilder("late", ("x", "weight"))
    graph.compute("product", Linear(), ("x", "weight"))
    graph.permute("hop", "x", 1, Stream.GATHER)
    return graph.finish(("product", "hop"))


@pytest.mark.parametrize(("issues_ahead", "start"), [(False, 8), (True, 0)])
def test_whether_the_host_issues_while_something_computes(issues_ahead, start):
    figures = dataclasses.replace(UNIT, issues_ahead=issues_ahead)
    timeline = simulate(compute_then_hop(), (X, WEIGHT), 2, figures)
    assert times(timeline)["hop"] == (start, start + 8)


@pytest.mark.parametrize(("issues_ahead", "start"), [(False, 8), (True, 0)])
def test_who_waits_for_what_is_not_data(issues_ahead, start):
    """The host of a CPU stands still; a device's stream waits and compute goes on."""
    graph = ScheduleBuilder("after", ("x", "weight"))
    hop = graph.permute("hop", "x", 1, Stream.GATHER)
    graph.permute("later", "x", 1, Stream.SCATTER, after=(hop,))
    graph.compute("product", Linear(), ("x", "weight"))
    schedule = graph.finish(("later", "product"))
    figures = dataclasses.replace(UNIT, issues_ahead=issues_ahead)
    found = times(simulate(schedule, (X, WEIGHT), 2, figures))
    assert found["product"] == (start, start + 8)
    assert found["later"] == (8, 16)


def test_on_an_axis_of_one_rank_communication_is_free():
    timeline = simulate(gather_matmul("y", Place(0, 1), "off"), (X, WEIGHT), 1, UNIT)
    assert times(timeline) == {"gather": (0, 0), "product": (0, 8)}
    assert timeline.efficiency is None


def test_exposed_is_what_no_compute_covers():
    def span(stream: str, start: float, stop: float) -> TimelineSpan:
        return TimelineSpan("", stream, start, stop, stop - start)

    spans = (
        span("gather", 0, 4),
        span("scatter", 2, 6),
        span("compute", 3, 5),
        span("gather", 8, 10),
        span("compute", 7, 9),
    )
    assert Timeline(spans).exposed_s == 3 + 1 + 1
    assert Timeline(()).makespan_s == Timeline(()).exposed_s == 0


def test_one_timeline_after_another():
    both = ring().then(ring())
    assert both.makespan_s == 32
    assert both.communication_s == 16
    assert both.spans[-1].start_s == 32


FIGURES = [
    Figures(matmul_flops=1e9, memory_bytes_per_s=1e9, link_bytes_per_s=1e8),
    Figures(
        matmul_flops=1e8,
        memory_bytes_per_s=1e8,
        link_bytes_per_s=1e8,
        link_latency_s=1e-4,
        node_overhead_s=1e-5,
        stolen_s_per_byte=4e-9,
        issues_ahead=True,
    ),
]


@pytest.mark.parametrize("figures", FIGURES)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("operation", "mode"), EVERY_SCHEDULE)
def test_every_timeline_keeps_the_rules(operation, mode, size, figures):
    schedule = build(operation, mode, size, 0)
    timeline = simulate(schedule, meta_inputs(operation, size, torch.bfloat16), size, figures)
    spans = {span.name: span for span in timeline.spans}
    last = dict.fromkeys(Stream, 0.0)
    for node in schedule.nodes:
        span = spans[node.name]
        begins_after = [spans[name].stop_s for name in node.dependencies if name in spans]
        assert span.start_s >= max([last[node.stream], *begins_after])
        assert span.stop_s - span.start_s >= span.work_s * (1 - 1e-9)
        last[node.stream] = span.stop_s
    assert timeline.makespan_s >= timeline.compute_s * (1 - 1e-9)
    sequential_s = timeline.compute_s + timeline.communication_s
    if mode == "off":
        assert timeline.makespan_s == pytest.approx(sequential_s)
    else:
        assert timeline.makespan_s <= sequential_s * (1 + 1e-9) * timeline.compute_slowdown

"""Figures of overlap from spans whose times are known; sums against a count instant by instant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndtrain.core.spans import Span
from ndtrain.observe.metrics import OVERLAP_FIGURES, communication_times
from ndtrain.observe.overlap_figures import (
    OPERATIONS,
    STEP,
    Busy,
    Tallying,
    operation_of,
    overlap_figures,
)

MS = 1_000_000


def span(name: str, track: str, start_ms: float, stop_ms: float, num_bytes: int = 0) -> Span:
    return Span(name, track, int(start_ms * MS), int(stop_ms * MS), num_bytes)


@pytest.mark.parametrize(
    ("name", "track", "operation"),
    [
        ("layers.3.attention.qkv.hop_1.permute", "gather", "qkv"),
        ("layers.3.attention.o.backward.product_0", "compute", "o"),
        ("layers.0.mlp.gate_up.gather.all_gather", "gather", "gate_up"),
        ("layers.0.mlp.down.backward.gather.all_gather", "gather", "down"),
        ("head.statistics.all_gather", "gather", "head"),
        ("embedding.reduce_scatter", "scatter", "embedding"),
        ("buckets.scatter_12.reduce_scatter", "scatter", "gradient_buckets"),
        ("buckets.gather_12.all_gather", "gather", "parameter_gathers"),
        ("buckets.update_12", "compute", "other"),
        ("layers.2.offload.0.out", "dma", "offload"),
        ("checkpoint.layers.3.attention.qkv.weight", "dma", "checkpoint"),
        ("input", "dma", "input"),
        ("layers.0.attention_norm", "compute", "other"),
        ("replicated_gradients.all_gather", "scatter", "other"),
    ],
)
def test_spans_belong_to_operations_by_their_names(name: str, track: str, operation: str) -> None:
    assert operation_of(name, track) == operation


RING = [
    span("layers.0.attention.qkv.product_0", "compute", 0, 12),
    span("layers.0.attention.qkv.hop_1.permute", "gather", 2, 14, 6000),
    span("layers.0.attention.qkv.product_1", "compute", 14, 24),
    span("layers.0.mlp.down.pass_1.permute", "scatter", 30, 34, 1000),
]


def test_a_ring_whose_first_product_hides_most_of_its_hop() -> None:
    figures = overlap_figures(Tallying().step(RING), {"qkv": 77, "down": 100})
    assert figures["qkv"] == {
        "compute_ms": 22.0,
        "comm_ms": 12.0,
        "exposed_comm_ms": 2.0,
        "overlap_efficiency": pytest.approx(10 / 12),
        "compute_slowdown": pytest.approx(12 / 10),  # product_1 ran alone
        "comm_bytes": 6000,
        "hidden_bytes": 5000,
        "arrived_bytes": None,
        "extra_bytes": 77,
    }
    assert figures["down"]["hidden_bytes"] == 0
    assert figures["down"]["overlap_efficiency"] is None  # it has no compute to hide behind
    assert figures[STEP]["comm_ms"] == 16.0
    assert figures[STEP]["exposed_comm_ms"] == 6.0
    assert figures[STEP]["extra_bytes"] == 100  # the two take turns
    assert figures.keys() == {"qkv", "down", STEP}


def test_every_figure_is_documented() -> None:
    for figures in overlap_figures(Tallying().step(RING), {}).values():
        assert figures.keys() == OVERLAP_FIGURES.keys()


def test_buckets_hide_behind_any_compute_of_the_step() -> None:
    spans = [
        span("layers.0.mlp.down.product", "compute", 0, 4),
        span("buckets.scatter_0.reduce_scatter", "scatter", 1, 9, 800),
    ]
    buckets = overlap_figures(Tallying().step(spans), {})["gradient_buckets"]
    assert buckets["overlap_efficiency"] == pytest.approx(3 / 4)
    assert buckets["hidden_bytes"] == 300


def test_compute_that_never_runs_alone_has_no_slowdown_until_it_does() -> None:
    tallying = Tallying()
    beside = [
        span("layers.0.mlp.down.dweight", "compute", 0, 6),
        span("layers.0.mlp.down.scatter.reduce_scatter", "scatter", 0, 6, 10),
    ]
    assert overlap_figures(tallying.step(beside), {})["down"]["compute_slowdown"] is None
    tallying.step([span("layers.7.mlp.down.dweight", "compute", 0, 5)])
    slowdown = overlap_figures(tallying.step(beside), {})["down"]["compute_slowdown"]
    assert slowdown == pytest.approx(6 / 5)


pieces = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=8)


@given(pieces, st.integers(0, 35), st.integers(0, 12))
def test_covered_time_is_a_count_of_instants(parts: list, start: int, length: int) -> None:
    busy = Busy(Span("x", "compute", at, at + size, 0) for at, size in parts)
    instants = {i for at, size in parts for i in range(at, at + size)}
    assert busy.covered_ns(start, start + length) == len(
        instants & set(range(start, start + length))
    )


names = st.sampled_from(["a.qkv.hop", "a.down.product", "buckets.scatter_0", "embedding", "norm"])
tracks = st.sampled_from(["gather", "scatter", "dma", "compute", "host"])


@given(st.lists(st.tuples(names, tracks, st.integers(0, 30), st.integers(1, 9)), max_size=12))
def test_the_step_agrees_with_the_times_of_its_communication(parts: list) -> None:
    spans = [Span(name, track, at, at + size, 10) for name, track, at, size in parts]
    tallies, times = Tallying().step(spans), communication_times(spans)
    assert tallies[STEP].comm_ms == pytest.approx(times.comm_ms)
    assert tallies[STEP].exposed_comm_ms == pytest.approx(times.exposed_comm_ms)
    own = [tallies[operation] for operation in OPERATIONS]
    assert sum(tally.comm_bytes for tally in own) == tallies[STEP].comm_bytes
    assert sum(tally.hidden_bytes for tally in own) == pytest.approx(tallies[STEP].hidden_bytes)

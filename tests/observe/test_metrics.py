"""Metrics against counts made another way: by enumeration, by hand, or by published sizes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndtrain.core.spans import Span
from ndtrain.models.qwen3.shape import SIZES
from ndtrain.observe import metrics

MS = 1_000_000


def test_tokens_per_second() -> None:
    assert metrics.tokens_per_second(num_tokens=4096, step_ms=500.0) == 8192.0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_packed_pairs_equal_the_mask_counted_cell_by_cell(lengths: list[int]) -> None:
    document = [i for i, length in enumerate(lengths) for _ in range(length)]
    tokens = range(len(document))
    allowed = sum(
        document[query] == document[key] and key <= query
        for query, key in itertools.product(tokens, tokens)
    )
    positions = np.concatenate([np.arange(length) for length in lengths])
    assert metrics.packed_pairs(positions) == allowed


def test_packed_pairs_of_whole_sequences_are_causal_pairs() -> None:
    positions_BS = np.tile(np.arange(512, dtype=np.int32), (3, 1))
    assert metrics.packed_pairs(positions_BS) == 3 * metrics.causal_pairs(512) == 3 * 512 * 513 // 2


def test_packed_pairs_do_not_overflow_small_integers() -> None:
    positions = np.full(2**17, 2**15 - 1, dtype=np.int16)
    assert metrics.packed_pairs(positions) == 2**32


def test_step_flops_equal_a_count_of_each_matmul() -> None:
    shape = replace(
        SIZES["qwen3_0.6b"],
        vocab_size=11,
        hidden_size=6,
        intermediate_size=10,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=2,
    )
    num_tokens = 5
    matmuls = [  # (rows, inner, columns) of the forward pass of one layer
        (num_tokens, 6, 8),  # query
        (num_tokens, 6, 4),  # key
        (num_tokens, 6, 4),  # value
        (num_tokens, 8, 6),  # output
        (num_tokens, 6, 10),  # gate
        (num_tokens, 6, 10),  # up
        (num_tokens, 10, 6),  # down
    ]
    layer = sum(2 * rows * inner * columns for rows, inner, columns in matmuls)
    # Scores and values of each head, for the 15 pairs of a causal sequence of five.
    layer += 4 * 15 * (2 * 2 + 2 * 2)
    head = 2 * num_tokens * 6 * 11
    forward = 3 * layer + head
    # The backward pass has two matmuls for each of the forward pass.
    assert metrics.step_flops(shape, num_tokens, metrics.causal_pairs(5)) == 3 * forward


def test_mfu() -> None:
    mfu = metrics.model_flops_utilization(flops=50e12, step_ms=1000.0, peak_flops=2 * 100e12)
    assert mfu == pytest.approx(0.25)


def test_mfu_is_unknown_where_the_peak_is() -> None:
    assert metrics.model_flops_utilization(50e12, 1000.0, peak_flops=None) is None


def span(track: str, start_ms: float, stop_ms: float) -> Span:
    return Span("x", track, int(start_ms * MS), int(stop_ms * MS), 0)


def test_blocking_communication_is_all_exposed() -> None:
    times = metrics.communication_times(
        [span("compute", 0, 10), span("gather", 10, 14), span("compute", 14, 20)]
    )
    assert times == (4.0, 4.0, 0.0)


def test_communication_beside_compute_is_hidden() -> None:
    times = metrics.communication_times(
        [span("gather", 0, 4), span("compute", 1, 2), span("compute", 3, 9)]
    )
    assert times == (4.0, 2.0, 50.0)


def test_simultaneous_transfers_count_once() -> None:
    times = metrics.communication_times(
        [span("gather", 0, 4), span("scatter", 2, 6), span("dma", 3, 5), span("compute", 5, 6)]
    )
    assert times.comm_ms == 6.0
    assert times.exposed_comm_ms == 5.0


def test_phases_of_the_host_hide_nothing() -> None:
    times = metrics.communication_times([span("host", 0, 10), span("gather", 2, 4)])
    assert times.exposed_comm_ms == 2.0


def test_no_communication_has_no_percentage() -> None:
    assert metrics.communication_times([span("compute", 0, 1)]) == (0.0, 0.0, None)


intervals = st.tuples(st.integers(0, 30), st.integers(0, 10)).map(lambda p: (p[0], p[0] + p[1]))
tracks = st.sampled_from(["gather", "scatter", "dma", "compute", "host"])


@given(st.lists(st.tuples(tracks, intervals), max_size=12))
def test_times_equal_a_count_of_each_millisecond(work: list[tuple[str, tuple[int, int]]]) -> None:
    def busy(instant: int, names: tuple[str, ...]) -> bool:
        return any(track in names and a <= instant < b for track, (a, b) in work)

    instants = range(41)
    moving = [i for i in instants if busy(i, ("gather", "scatter", "dma"))]
    exposed = [i for i in moving if not busy(i, ("compute",))]
    times = metrics.communication_times([span(track, a, b) for track, (a, b) in work])
    assert times.comm_ms == pytest.approx(len(moving))
    assert times.exposed_comm_ms == pytest.approx(len(exposed))

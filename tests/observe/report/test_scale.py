"""Axes and figures: round numbers, right factors, no extreme lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtrain.observe.report.scale import Axis, buckets, finite, milliseconds, plain, short, ticks

VALUES = st.floats(-1e12, 1e12, allow_nan=False)


def test_ticks_are_round() -> None:
    assert ticks(0, 37) == [0, 10, 20, 30]
    assert ticks(6.4, 8.5) == [6.5, 7, 7.5, 8, 8.5]
    assert ticks(1, 60, 8) == [10, 20, 30, 40, 50, 60]
    assert ticks(3, 3) == [3]


@settings(deadline=None)  # a busy machine is no failure
@given(low=VALUES, span=st.floats(1e-6, 1e12), most=st.integers(2, 10))
def test_ticks_lie_inside_and_are_few(low: float, span: float, most: int) -> None:
    high = low + span
    found = ticks(low, high, most)
    assert len(found) <= most + 1
    slack = 1e-6 * (high - low) + 1e-9 * abs(low)
    assert all(low - slack <= tick <= high + slack for tick in found)


def test_an_axis_upwards() -> None:
    axis = Axis(0, 10, start=200, stop=0)
    assert (axis.at(0), axis.at(10), axis.at(2.5)) == (200, 0, 150)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0182, "0.0182"),
        (999.4, "999"),
        (999.6, "1k"),
        (41_234, "41.2k"),
        (3.55e10, "35.5G"),
        (-1500, "-1.5k"),
        (2e-5, "2e-05"),
        (8.371, "8.37"),
    ],
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text


def test_figures_with_units() -> None:
    assert [plain(v) for v in (31.72, 999.4, 3172.4)] == ["31.7", "999", "3,172"]
    assert [milliseconds(v) for v in (0.25, 812, 3172, 3.2e6)] == [
        "0.25 ms",
        "812 ms",
        "3.17 s",
        "3,200 s",
    ]


def test_only_finite_points_are_kept() -> None:
    points = [(1, None), (2, float("nan")), (3, float("inf")), (4, 2.0), (5, 3)]
    assert finite(points) == [(4, 2.0), (5, 3.0)]


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=500), st.integers(1, 60))
def test_buckets_keep_order_and_extremes(values: list[float], most: int) -> None:
    found = buckets(list(enumerate(values)), most)
    assert len(found) <= most
    assert min(b.low for b in found) == min(values)
    assert max(b.high for b in found) == max(values)
    assert [b.x for b in found] == sorted(b.x for b in found)


def test_few_points_stay_themselves() -> None:
    assert buckets([(1, 5.0), (2, 7.0)], 10) == [(1, 5, 5, 5), (2, 7, 7, 7)]

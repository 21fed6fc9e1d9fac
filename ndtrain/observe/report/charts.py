"""Charts over the steps of a run, as inline SVG: lines with a band, and stacked areas.

    line_chart([Series("loss", points, "blue")], "nats per token", marks=[Mark(20, "resumed")])
    stacked_chart([Series("compute", points, "blue"), ...], "ms")

Colours are names of CSS variables of the page, so that one picture serves light and dark. Where a
run has more steps than `MOST_POINTS`, a line is the mean of neighbouring steps, and a band behind
it reaches from the least to the largest of them. Values that are not finite leave a gap.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ndtrain.observe.report.html import escape
from ndtrain.observe.report.scale import Axis, Bucket, buckets, finite, plain, short

MOST_POINTS = 400
_WIDTH, _HEIGHT = 760, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 26, 36

Points = Sequence[tuple[float, float | None]]


class Mark(NamedTuple):
    """Something that happened at a step: a dashed line or, if it is minor, a tick at the foot."""

    step: float
    text: str
    is_minor: bool = False


Marks = Sequence[Mark]


class Series(NamedTuple):
    """dots: also mark the points themselves, for series with few of them."""

    name: str
    points: Points
    colour: str
    dots: bool = False


def line_chart(
    series: Sequence[Series], unit: str, marks: Marks = (), from_zero: bool = False
) -> str:
    """One chart of several lines over steps; empty if no value is finite."""
    lines = [(one, buckets(finite(one.points), MOST_POINTS)) for one in series]
    lines = [(one, points) for one, points in lines if points]
    if not lines:
        return ""
    every = [bucket for _, points in lines for bucket in points]
    low = 0.0 if from_zero else min(bucket.low for bucket in every)
    high = max(bucket.high for bucket in every)
    x, y = _axes([b.x for b in every], low, high)
    parts = [_frame(x, y, unit), _marks(marks, x)]
    for one, points in lines:
        parts.append(_band(points, one.colour, x, y))
        parts.append(_line(points, one.colour, x, y, one.dots or len(points) == 1))
    return _chart([one for one, _ in lines], parts, f"{unit} by step")


def stacked_chart(series: Sequence[Series], unit: str, marks: Marks = ()) -> str:
    """Areas on top of each other, the first at the bottom. All series have the same x."""
    complete = [
        index
        for index in range(len(series[0].points))
        if len(finite(one.points[index] for one in series)) == len(series)
    ]
    layers = [
        buckets([(one.points[i][0], float(one.points[i][1] or 0)) for i in complete], MOST_POINTS)
        for one in series
    ]
    if not layers[0]:
        return ""
    totals = [sum(bucket.mean for bucket in column) for column in zip(*layers, strict=True)]
    x, y = _axes([bucket.x for bucket in layers[0]], 0.0, max(totals))
    base = [0.0] * len(totals)
    parts = []
    for one, layer in zip(series, layers, strict=True):
        top = [below + bucket.mean for below, bucket in zip(base, layer, strict=True)]
        upper = [(x.at(bucket.x), y.at(value)) for bucket, value in zip(layer, top, strict=True)]
        lower = [(x.at(bucket.x), y.at(value)) for bucket, value in zip(layer, base, strict=True)]
        if len(layer) == 1:  # an area of one step has no width of its own
            upper = [(upper[0][0] - 6, upper[0][1]), (upper[0][0] + 6, upper[0][1])]
            lower = [(lower[0][0] - 6, lower[0][1]), (lower[0][0] + 6, lower[0][1])]
        outline = _path([*upper, *reversed(lower)])
        parts.append(f'<path d="{outline}Z" fill="var(--{one.colour})" class="area"/>')
        base = top
    return _chart(series, [*parts, _frame(x, y, unit), _marks(marks, x)], f"{unit} by step")


def _axes(xs: Sequence[float], low: float, high: float) -> tuple[Axis, Axis]:
    first, last = min(xs), max(xs)
    if last == first:
        first, last = first - 1, last + 1
    if high == low:
        pad = abs(high) * 0.05 or 1.0
        low, high = low - pad, high + pad
    else:
        pad = (high - low) * 0.04
        low, high = low - pad if low else low, high + pad
    return Axis(first, last, _LEFT, _WIDTH - _RIGHT), Axis(low, high, _HEIGHT - _BOTTOM, _TOP)


def _frame(x: Axis, y: Axis, unit: str) -> str:
    """Grid, ticks and the names of the axes."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in y.ticks():
        at = f"{y.at(tick):.1f}"
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at}" dy="4" class="end">{_label(tick)}</text>')
    for tick in (tick for tick in x.ticks(8) if tick == int(tick)):
        at = f"{x.at(tick):.1f}"
        parts.append(f'<line x1="{at}" x2="{at}" y1="{bottom}" y2="{bottom + 4}" class="axis"/>')
        parts.append(f'<text x="{at}" y="{bottom + 17}" class="mid">{_label(tick)}</text>')
    parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" class="axis"/>')
    parts.append(f'<text x="{right}" y="{_HEIGHT - 4}" class="end muted">step</text>')
    parts.append(f'<text x="4" y="14" class="muted">{escape(unit)}</text>')
    return "".join(parts)


def _label(tick: float) -> str:
    return plain(tick) if abs(tick) < 1e5 else short(tick)


def _marks(marks: Marks, x: Axis) -> str:
    """Dashed lines at steps at which something happened, in the range of the chart."""
    parts = []
    bottom = _HEIGHT - _BOTTOM
    for mark in marks:
        at = x.at(mark.step)
        if _LEFT - 0.5 <= at <= _WIDTH - _RIGHT + 0.5:
            parts.append(
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{bottom - 9 if mark.is_minor else _TOP}"'
                f' y2="{bottom}" class="{"minor" if mark.is_minor else "mark"}">'
                f"<title>{escape(mark.text)}</title></line>"
            )
    return "".join(parts)


def _band(points: list[Bucket], colour: str, x: Axis, y: Axis) -> str:
    if all(bucket.low == bucket.high for bucket in points):
        return ""
    upper = [(x.at(bucket.x), y.at(bucket.high)) for bucket in points]
    lower = [(x.at(bucket.x), y.at(bucket.low)) for bucket in reversed(points)]
    return f'<path d="{_path([*upper, *lower])}Z" fill="var(--{colour})" class="band"/>'


def _line(points: list[Bucket], colour: str, x: Axis, y: Axis, dots: bool) -> str:
    where = [(x.at(bucket.x), y.at(bucket.mean)) for bucket in points]
    path = f'<path d="{_path(where)}" stroke="var(--{colour})" class="line"/>'
    if not dots:
        return path
    circles = [
        f'<circle cx="{at:.1f}" cy="{up:.1f}" r="3" fill="var(--{colour})">'
        f"<title>step {bucket.x:.0f}: {short(bucket.mean)}</title></circle>"
        for (at, up), bucket in zip(where, points, strict=True)
    ]
    return path + "".join(circles)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _chart(series: Sequence[Series], parts: list[str], label: str) -> str:
    keys, at = [], _LEFT + 96
    for one in series:
        keys.append(
            f'<rect x="{at}" y="5" width="11" height="11" rx="2" fill="var(--{one.colour})"/>'
            f'<text x="{at + 16}" y="14">{escape(one.name)}</text>'
        )
        at += 34 + 7 * len(one.name)
    return svg(_WIDTH, _HEIGHT, "".join([*parts, *keys]), label)


def svg(width: int, height: int, content: str, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{content}</svg>"
    )

"""Numbers for axes: round ticks, labels with SI factors, fewer points than a screen has pixels.

ticks(0.0, 37.0)                    # [0.0, 10.0, 20.0, 30.0]
short(41_200)                       # "41.2k"
buckets([(1, 8.3), ...], 400)       # [(x, low, mean, high), ...]
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

_FACTORS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Bucket(NamedTuple):
    """Neighbouring points as one: the mean of their x, and of their y the least, mean, largest."""

    x: float
    low: float
    mean: float
    high: float


class Axis(NamedTuple):
    """Values [low, high] on pixels from start to stop, which for an axis upwards is the smaller."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        return self.start + (self.stop - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 5) -> list[float]:
        return ticks(self.low, self.high, most)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high], at most `most` + 1."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def short(value: float) -> str:
    """Three significant digits; k, M, G, T from a thousand on."""
    size = abs(value)
    for factor, suffix in _FACTORS:
        if size >= factor * 0.9995:
            return _digits(value / factor) + suffix
    return _digits(value) if size >= 1e-3 or value == 0 else f"{value:.2g}"


def plain(value: float) -> str:
    """Three significant digits, or all before the point: 31.7 and 3,172."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else _digits(value)


def milliseconds(value: float) -> str:
    """With its unit: 812 ms, 3.17 s."""
    return f"{_digits(value)} ms" if value < 999.5 else f"{plain(value / 1e3)} s"


def _digits(value: float) -> str:
    text = f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
    return "0" if text == "-0" else text


def finite(points: Iterable[tuple[float, float | None]]) -> list[tuple[float, float]]:
    return [(x, float(y)) for x, y in points if y is not None and math.isfinite(y)]


def buckets(points: Sequence[tuple[float, float]], most: int) -> list[Bucket]:
    """At most `most` of them, of equally many points; one a point where there are few enough.

    No extreme is lost: it is the low or high of its bucket.
    """
    size = max(1, -(-len(points) // most))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        Bucket(
            fmean(x for x, _ in group),
            min(y for _, y in group),
            fmean(y for _, y in group),
            max(y for _, y in group),
        )
        for group in groups
    ]

"""One step as a picture: streams as lanes on a time axis, with the exposed communication marked.

    picture = lanes([Lane("rank 0 compute", bars), ...], duration_us)

A lane has bars [start, stop) in microseconds; bars too thin to see are joined with the next one.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ndtrain.observe.report.charts import svg
from ndtrain.observe.report.html import escape
from ndtrain.observe.report.scale import Axis, milliseconds

_WIDTH, _LEFT, _RIGHT, _LANE, _TOP = 860, 112, 12, 24, 6
_THIN = 0.6  # pixels
_SPACE_FOR_LETTER = 6.5


class Bar(NamedTuple):
    start: float
    stop: float
    name: str
    colour: str
    labelled: bool = False  # its name is written on it where there is room


class Lane(NamedTuple):
    name: str
    bars: Sequence[Bar]


def lanes(rows: Sequence[Lane], duration_us: float) -> str:
    axis = Axis(0.0, max(duration_us, 1e-3), _LEFT, _WIDTH - _RIGHT)
    bottom = _TOP + _LANE * len(rows)
    parts = []
    for tick in axis.ticks(8):
        at = f"{axis.at(tick):.1f}"
        parts.append(f'<line x1="{at}" x2="{at}" y1="{_TOP}" y2="{bottom}" class="grid"/>')
        label = milliseconds(tick / 1e3)
        parts.append(f'<text x="{at}" y="{bottom + 16}" class="mid muted">{label}</text>')
    for index, lane in enumerate(rows):
        top = _TOP + _LANE * index
        parts.append(f'<text x="{_LEFT - 8}" y="{top + 16}" class="end">{escape(lane.name)}</text>')
        # A colour at a time, in the order given: the exposed part lies over the whole transfer.
        for colour in dict.fromkeys(bar.colour for bar in lane.bars):
            same = [bar for bar in lane.bars if bar.colour == colour]
            parts += [_drawn(bar, axis, top) for bar in _joined(same, axis)]
    return svg(_WIDTH, bottom + 24, "".join(parts), "one step, stream by stream")


def _joined(bars: Sequence[Bar], axis: Axis) -> list[Bar]:
    """Joins a bar with the one before it while one of them is thinner than a pixel."""
    least = _THIN * (axis.high - axis.low) / (axis.stop - axis.start)
    joined: list[Bar] = []
    for bar in sorted(bars):
        before = joined[-1] if joined else None
        if (
            before is not None
            and bar.start - before.stop < least
            and min(before.stop - before.start, bar.stop - bar.start) < least
        ):
            name = f"{before.name.removesuffix(' ...')} ..."
            joined[-1] = before._replace(stop=max(before.stop, bar.stop), name=name)
        else:
            joined.append(bar)
    return joined


def _drawn(bar: Bar, axis: Axis, top: int) -> str:
    left, right = axis.at(max(bar.start, axis.low)), axis.at(min(bar.stop, axis.high))
    width = max(right - left, 0.4)
    title = f"{bar.name}: {milliseconds((bar.stop - bar.start) / 1e3)}"
    rect = (
        f'<rect x="{left:.2f}" y="{top + 3}" width="{width:.2f}" height="{_LANE - 6}" rx="1"'
        f' fill="var(--{bar.colour})"><title>{escape(title)}</title></rect>'
    )
    if not bar.labelled or width < _SPACE_FOR_LETTER * len(bar.name) + 6:
        return rect
    return rect + f'<text x="{left + 5:.1f}" y="{top + 16}">{escape(bar.name)}</text>'

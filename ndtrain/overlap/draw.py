"""Draws a timeline: as text, one row a stream, and as a self-contained SVG picture.

    print("\\n".join(rows(timeline, width=100)))
    path.write_text(svg([("forward", timeline)], "one layer, predicted"))

A last row shows what is exposed: communication with no compute beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ndtrain.overlap.schedule import Stream
from ndtrain.overlap.timeline import Timeline

_LABEL_WIDTH = 8
_EXPOSED, _PARTS = "exposed", "part"

# Of the picture, in pixels.
_WIDTH, _LEFT, _ROW, _BAR, _TITLE, _CHARACTER = 1200, 70, 26, 20, 44, 6.2
# Okabe and Ito's palette, which colour-blind readers can tell apart.
_COLOURS = {
    Stream.COMPUTE: "#0072b2",
    Stream.GATHER: "#009e73",
    Stream.SCATTER: "#e69f00",
    Stream.DMA: "#cc79a7",
}
_EXPOSED_COLOUR, _PARTS_COLOUR = "#d55e00", "#666666"


@dataclass(frozen=True)
class Panel:
    label: str
    timeline: Timeline
    parts: Sequence[tuple[str, float, float]] = ()  # name, start and stop in seconds


def rows(panel: Panel, width: int) -> list[str]:
    """Lines of at most `width` columns, in ASCII; a bar carries its name where it fits."""
    timeline = panel.timeline
    columns = max(10, width - _LABEL_WIDTH - 2)
    scale = columns / timeline.makespan_s if timeline.makespan_s else 0.0
    lines = [_row(_PARTS, panel.parts, scale, columns)] if panel.parts else []
    for stream in _streams(timeline):
        bars = [(s.name, s.start_s, s.stop_s) for s in timeline.spans if s.stream == stream]
        lines.append(_row(stream, bars, scale, columns))
    cells = [" "] * columns
    for start_s, stop_s in timeline.exposed_intervals():
        first, last = _columns(start_s * scale, stop_s * scale, columns)
        cells[first:last] = "!" * (last - first)
    return [*lines, _line(_EXPOSED, cells)]


def _row(label: str, bars: Sequence[tuple[str, float, float]], scale: float, columns: int) -> str:
    cells = [" "] * columns
    for name, start_s, stop_s in bars:
        _draw(cells, name, start_s * scale, stop_s * scale)
    return _line(label, cells)


def _streams(timeline: Timeline) -> list[Stream]:
    used = {span.stream for span in timeline.spans}
    return [stream for stream in Stream if stream in used]


def _line(label: str, cells: list[str]) -> str:
    return f"{label:<{_LABEL_WIDTH}}|{''.join(cells)}|"


def _columns(start: float, stop: float, num_columns: int) -> tuple[int, int]:
    """First and last column, exclusive: at least one, none for what takes no time."""
    if stop <= start:
        return 0, 0
    first = min(round(start), num_columns - 1)
    return first, max(first + 1, min(round(stop), num_columns))


def _draw(cells: list[str], name: str, start: float, stop: float) -> None:
    first, last = _columns(start, stop, len(cells))
    room = last - first
    if room == 0:
        return
    label = next((text for text in _names(name) if len(text) <= room - 2), "")
    bar = f"[{label:=^{room - 2}}]" if room > 2 else "|" * room
    cells[first:last] = bar


def _names(name: str) -> list[str]:
    """The whole name, then what is left of it without its first parts."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def svg(panels: Sequence[Panel], title: str) -> str:
    """The panels below each other, all to one scale; names on the bars or under the pointer."""
    longest_s = max((panel.timeline.makespan_s for panel in panels), default=0.0)
    scale = (_WIDTH - _LEFT - 20) / longest_s if longest_s else 0.0
    body, top = [], 30.0
    for panel in panels:
        elements, height = _panel(panel, scale, top)
        body += elements
        top += height
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top:.0f}" '
        f'viewBox="0 0 {_WIDTH} {top:.0f}" role="img" font-family="sans-serif" font-size="11">'
    )
    background = f'<rect width="{_WIDTH}" height="{top:.0f}" fill="white"/>'
    heading = f'<text x="10" y="20" font-size="14" font-weight="bold">{escape(title)}</text>'
    name = f"<title>{escape(title)}</title>"
    return "\n".join([head, name, background, heading, *body, "</svg>\n"])


def _panel(panel: Panel, scale: float, top: float) -> tuple[list[str], float]:
    """The elements of one timeline and their height."""
    timeline = panel.timeline
    heading = (
        f"{panel.label}: {timeline.makespan_s * 1e3:.3f} ms, "
        f"exposed {timeline.exposed_s * 1e3:.3f} ms"
    )
    elements = [f'<text x="10" y="{top + 18:.0f}">{escape(heading)}</text>']
    y = top + _TITLE - 16
    if panel.parts:
        elements.append(_row_label(_PARTS, y))
        for part, start_s, stop_s in panel.parts:
            elements.append(_bar(part, start_s, stop_s, y, scale, _PARTS_COLOUR))
        y += _ROW
    for stream in _streams(timeline):
        elements.append(_row_label(stream, y))
        for span in timeline.spans:
            if span.stream == stream:
                sent = f", {span.num_bytes:,} bytes sent" if span.num_bytes else ""
                colour = _COLOURS[stream]
                elements.append(_bar(span.name, span.start_s, span.stop_s, y, scale, colour, sent))
        y += _ROW
    elements.append(_row_label(_EXPOSED, y))
    for start_s, stop_s in timeline.exposed_intervals():
        elements.append(_bar(_EXPOSED, start_s, stop_s, y, scale, _EXPOSED_COLOUR))
    return elements, y + _ROW + 10 - top


def _row_label(label: str, y: float) -> str:
    return f'<text x="10" y="{y + 14:.0f}" fill="#444">{label}</text>'


def _bar(
    name: str, start_s: float, stop_s: float, y: float, scale: float, colour: str, more: str = ""
) -> str:
    """A rectangle with its tip, and its name where it fits; nothing for what takes no time."""
    if stop_s <= start_s:
        return ""
    x, width = _LEFT + start_s * scale, (stop_s - start_s) * scale
    tip = f"{name}: {(stop_s - start_s) * 1e3:.3f} ms{more}"
    rectangle = (
        f'<rect x="{x:.2f}" y="{y:.0f}" width="{max(0.5, width):.2f}" height="{_BAR}" '
        f'fill="{colour}" stroke="white" stroke-width="0.5"><title>{escape(tip)}</title></rect>'
    )
    label = next((text for text in _names(name) if len(text) <= width / _CHARACTER - 1), "")
    if not label:
        return rectangle
    place = f'x="{x + 3:.2f}" y="{y + 14:.0f}" fill="white" pointer-events="none"'
    return f"{rectangle}<text {place}>{escape(label)}</text>"

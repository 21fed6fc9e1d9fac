"""Drawings of a small timeline, to the character."""

from xml.etree import ElementTree

import pytest

from ndtrain.overlap.draw import Panel, rows, svg
from ndtrain.overlap.timeline import Timeline, TimelineSpan

SVG = "{http://www.w3.org/2000/svg}"


def span(name: str, stream: str, start_s: float, stop_s: float, num_bytes: int = 0) -> TimelineSpan:
    return TimelineSpan(name, stream, start_s, stop_s, stop_s - start_s, num_bytes)


TIMELINE = Timeline(
    (
        span("qkv.product", "compute", 0, 10),
        span("qkv.hop", "gather", 0, 14, num_bytes=1234),
        span("qkv.view", "compute", 10, 10),
        span("last", "compute", 14, 20),
    )
)
PANEL = Panel("forward", TIMELINE, (("qkv", 0, 14), ("<core>", 14, 20)))


def test_text_is_to_scale_and_says_what_is_exposed():
    assert rows(PANEL, width=50) == [
        "part    |[===========qkv============][==<core>==]|",
        "compute |[===qkv.product====]        [===last===]|",
        "gather  |[=========qkv.hop==========]            |",
        "exposed |                    !!!!!!!!            |",
    ]


@pytest.mark.parametrize("width", [1, 20, 33, 80, 200])
def test_lines_fill_the_width_and_not_more(width):
    lines = rows(PANEL, width)
    assert {len(line) for line in lines} == {max(20, width)}
    assert all(line.isascii() for line in lines)


def test_no_communication_exposes_nothing():
    lines = rows(Panel("alone", Timeline((span("x", "compute", 0, 1),))), width=40)
    assert [line.split("|")[0].strip() for line in lines] == ["compute", "exposed"]
    assert "!" not in lines[1]


def test_an_empty_timeline_can_be_drawn():
    assert rows(Panel("empty", Timeline(())), width=30) == ["exposed |" + 20 * " " + "|"]
    ElementTree.fromstring(svg([Panel("empty", Timeline(()))], "empty"))


def test_the_picture_is_one_file_with_every_span_to_scale():
    text = svg([PANEL, PANEL], "a <layer> & more")
    root = ElementTree.fromstring(text)
    assert root.find(f"{SVG}title").text == "a <layer> & more"
    assert "href" not in text
    assert "url(" not in text
    bars = {
        bar.find(f"{SVG}title").text: float(bar.get("width"))
        for bar in root.iter(f"{SVG}rect")
        if bar.find(f"{SVG}title") is not None
    }
    assert set(bars) == {
        "qkv: 14000.000 ms",
        "<core>: 6000.000 ms",
        "qkv.product: 10000.000 ms",
        "qkv.hop: 14000.000 ms, 1,234 bytes sent",
        "last: 6000.000 ms",
        "exposed: 4000.000 ms",
    }
    per_second = bars["qkv.product: 10000.000 ms"] / 10
    assert bars["last: 6000.000 ms"] == pytest.approx(6 * per_second, abs=0.02)
    assert bars["exposed: 4000.000 ms"] == pytest.approx(4 * per_second, abs=0.02)
    height, width = float(root.get("height")), float(root.get("width"))
    for bar in root.iter(f"{SVG}rect"):
        x, y = float(bar.get("x", 0)), float(bar.get("y", 0))
        assert x + float(bar.get("width")) <= width
        assert y + float(bar.get("height")) <= height

"""events.jsonl: it only grows, survives torn lines, and knows what a note is about."""

from pathlib import Path

import pytest

from ndtrain.observe.events import Event, EventSink, append_event, read_events


def test_notes_carry_the_step_of_the_last_record(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = EventSink(path, start_step=4)
    sink.note("started: here")
    sink.write({"step": 5, "loss": 1.0})
    sink.note("saved there\nand there")
    sink.close()
    again = EventSink(path, start_step=5)
    again.note("resumed there")
    found = read_events(path)
    assert [(e.step, e.text) for e in found] == [
        (4, "started: here"),
        (5, "saved there\nand there"),
        (5, "resumed there"),
    ]
    assert all(event.time.endswith("+00:00") for event in found)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("warning: loss 9 of step 3", "warning"),
        ("failed: no space", "failure"),
        ("hung: no progress", "failure"),
        ("saved runs/x", "save"),
        ("started: runs/x", "start"),
        ("repeated: steps 3 to 4", "resume"),
        ("resumed runs/x", "resume"),
        ("stopped: signal TERM", "stop"),
        ("finished: runs/x", "finish"),
        ("data: 4 rows", "note"),
    ],
)
def test_kinds(text: str, kind: str) -> None:
    assert Event("", 0, text).kind == kind


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_events(path) == []
    append_event(path, 1, "saved a")
    with path.open("a") as stream:
        stream.write('{"time": "2026", "st')
    assert [event.text for event in read_events(path)] == ["saved a"]

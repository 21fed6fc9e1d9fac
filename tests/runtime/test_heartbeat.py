"""Something is said while it lasts, and nothing afterwards."""

import threading

import pytest

from ndtrain.runtime.heartbeat import heartbeat


def test_it_speaks_inside_and_is_silent_behind() -> None:
    notes: list[str] = []
    twice = threading.Event()

    def note(text: str) -> None:
        notes.append(text)
        if len(notes) == 2:
            twice.set()

    with heartbeat(lambda seconds: f"{seconds:.0f} s so far", note, every_s=0.01):
        assert twice.wait(60)
    said = len(notes)
    assert not threading.Event().wait(0.05)
    assert len(notes) == said
    assert notes[0] == "0 s so far"


def test_a_short_block_is_not_worth_a_word_and_an_error_ends_it() -> None:
    notes: list[str] = []
    with heartbeat(str, notes.append, every_s=60.0):
        pass
    with pytest.raises(ValueError, match="inside"), heartbeat(str, notes.append, every_s=60.0):
        raise ValueError("inside")
    assert notes == []
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}

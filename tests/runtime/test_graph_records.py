"""A miss of the compile cache says why."""

from pathlib import Path

import pytest

from ndtrain.runtime.graph_records import GONE, NOTHING, GraphRecords

STEP = "the training step"
KEY = {"neuronx-cc": "2.22", "flags": "-O1", "rank": "0", "model.num_layers": "4", "optim.eps": "1"}


def recorded(folder: Path, **changes: str) -> None:
    """A graph that was compiled under another key; its entry is there."""
    (folder / "entry").touch()
    GraphRecords(folder, KEY | changes).write(STEP, ["entry"], 3.0)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ({"neuronx-cc": "2.23"}, "neuronx-cc 2.22 -> 2.23"),
        ({"flags": "-O2"}, "flags differ: -O1 -> -O2"),
        ({"rank": "1"}, "only another rank's cache has it (rank 0 -> 1)"),
        ({"XLA_IR_DEBUG": "1"}, "XLA_IR_DEBUG unset -> 1"),
        (
            {"model.num_layers": "2"},
            "the graph itself changed (config differs: model.num_layers 4 -> 2)",
        ),
        (
            {"flags": "-O2", "model.num_layers": "2", "optim.eps": "2"},
            "flags differ: -O1 -> -O2; the graph itself changed"
            " (config differs: model.num_layers 4 -> 2, optim.eps 1 -> 2)",
        ),
        ({}, "the graph itself changed, not its configuration, flags or versions"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, new: dict[str, str], reason: str) -> None:
    recorded(tmp_path)
    assert GraphRecords(tmp_path, KEY | new).why_missed(STEP) == reason


def test_nothing_is_known_of_a_graph_that_was_never_compiled(tmp_path: Path) -> None:
    assert GraphRecords(tmp_path, KEY).why_missed(STEP) == NOTHING
    recorded(tmp_path)
    assert GraphRecords(tmp_path, KEY).why_missed("the evaluation") == NOTHING


def test_the_nearest_record_is_compared(tmp_path: Path) -> None:
    recorded(tmp_path, **{"model.num_layers": "8", "flags": "-O3"})
    recorded(tmp_path)
    recorded(tmp_path, **{"model.num_layers": "16", "optim.eps": "9"})
    reason = GraphRecords(tmp_path, KEY | {"flags": "-O2"}).why_missed(STEP)
    assert reason == "flags differ: -O1 -> -O2"


def test_what_was_removed_from_the_cache_is_said_to_be_gone(tmp_path: Path) -> None:
    recorded(tmp_path)
    (tmp_path / "entry").unlink()
    assert GraphRecords(tmp_path, KEY).why_missed(STEP) == GONE


def test_a_later_write_keeps_what_the_earlier_one_knew(tmp_path: Path) -> None:
    """A run that finds all in the cache adds no entry; a second form of the graph adds one."""
    recorded(tmp_path)
    GraphRecords(tmp_path, KEY).write(STEP, [], 0.1)
    (tmp_path / "entry").unlink()
    assert GraphRecords(tmp_path, KEY).why_missed(STEP) == GONE


def test_a_damaged_record_explains_nothing_and_stops_nothing(tmp_path: Path) -> None:
    recorded(tmp_path)
    (file,) = (tmp_path / "graphs").iterdir()
    for text in ("{", "[]", '{"graph": 1}'):
        file.write_text(text)
        assert GraphRecords(tmp_path, KEY).why_missed(STEP) == NOTHING
    recorded(tmp_path)
    assert "flags differ" in GraphRecords(tmp_path, KEY | {"flags": "-O2"}).why_missed(STEP)


def test_what_is_found_may_be_another_compiler_s(tmp_path: Path) -> None:
    records = GraphRecords(tmp_path, KEY)
    assert records.what_else_differs(STEP, ()) == ""  # nobody has told
    recorded(tmp_path, flags="-O2", ndtrain="0.1")
    recorded(tmp_path, flags="-O2", rank="7", ndtrain="0.2")
    assert records.what_else_differs(STEP, ("ndtrain",)) == "flags differ: -O2 -> -O1"
    recorded(tmp_path, **{"model.num_layers": "9"})
    assert records.what_else_differs(STEP, ("ndtrain",)) == ""

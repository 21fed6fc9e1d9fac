"""Keys of NxD Training and optimum-neuron: each is answered, by a key of ours that exists."""

import re
from pathlib import Path

import pytest

from ndtrain.config import keys
from ndtrain.config.foreign_keys import NXDT, OPTIMUM, Foreign, foreign

README = Path(__file__).parents[2] / "launch" / "README.md"
ROWS = (*NXDT, *OPTIMUM)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.theirs)
def test_each_is_answered(row: Foreign) -> None:
    assert row.ours or row.note
    assert not row.ours or keys.field(row.ours) is not None
    assert keys.field(row.theirs) is None
    _, help_text = keys.unknown_key(row.theirs)
    if row.ours:
        assert f"`{row.ours}`" in help_text
    else:
        assert row.note in help_text


def test_the_section_may_be_left_out() -> None:
    _, help_text = keys.unknown_key("tensor_model_parallel_size")
    assert "did you mean `parallel.tp`?" in help_text
    _, help_text = keys.unknown_key("zero1")
    assert "always: ZeRO-1" in help_text


def test_in_a_section_of_ours_only_whole_keys_count() -> None:
    assert foreign("optim.type") is None
    assert foreign("optim.zero1", is_own_section=True) is None
    assert foreign("data.val_dir", is_own_section=True) is not None


def test_the_readme_has_the_table_of_the_code() -> None:
    text = README.read_text("utf-8")
    shown = re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.MULTILINE)
    listed = [
        (row.theirs, "; ".join(filter(None, (row.ours and f"`{row.ours}`", row.note))))
        for row in ROWS
    ]
    assert [line for line in shown if line in listed] == listed

"""Configurations in words: what is shown loads again, the committed schema is in step."""

import json
from pathlib import Path
from typing import get_args

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtrain.config import keys, presets
from ndtrain.config.explain import json_schema, reference, scalar, show, to_yaml
from ndtrain.config.load import load
from ndtrain.config.reader import plain, read_value
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.sampled_from(["off", "010", "1e-4", "null", "*a", "- a", "a: b", "#", "''", "true"]),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=st.one_of(SCALARS, st.lists(SCALARS, max_size=4)))
def test_a_value_is_read_back_as_it_was(value: object) -> None:
    text = scalar(value)
    errors: list[UserError] = []
    found = plain(read_value(text, "the test", errors))
    assert not errors
    assert found == value
    assert type(found) is type(value)
    assert "\n" not in text


@pytest.mark.parametrize("with_origins", [False, True])
def test_what_is_shown_loads_to_the_same(tmp_path: Path, with_origins: bool) -> None:
    loaded = load("quickstart", ["data.paths=['a: b', '# c']", "data.source=text"])
    path = tmp_path / "shown.yaml"
    path.write_text(show(loaded, with_origins), "utf-8")
    assert load(str(path)).config == loaded.config
    assert to_yaml(loaded.config) == show(loaded, with_origins=False)


def test_origins_stand_beside_their_values() -> None:
    lines = show(load("quickstart", ["optim.lr=1e-3"]), with_origins=True).splitlines()
    (lr,) = [line for line in lines if line.startswith("  lr:")]
    (seed,) = [line for line in lines if line.startswith("  seed:")]
    assert lr.split() == ["lr:", "0.001", "#", "the", "command", "line"]
    assert seed.split() == ["seed:", "0", "#", "default"]


PINNED = (presets.folder().parent / "launch" / "constraints.txt").read_text("utf-8")


@pytest.mark.skipif(
    f"pydantic=={pydantic.VERSION}\n" not in PINNED,
    reason="how a schema is written depends on the release of pydantic",
)
def test_the_committed_schema_is_in_step() -> None:
    committed = json.loads((presets.folder() / "schema.json").read_text("utf-8"))
    # To renew it: ndtrain config schema --format json > configs/schema.json
    assert committed == json_schema()


def test_the_reference_is_a_config_of_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "reference.yaml"
    path.write_text(reference(), "utf-8")
    loaded = load(str(path))
    assert loaded.config == Config()
    assert "default" not in loaded.origins.values()


def test_every_key_and_section_is_explained() -> None:
    undocumented = [
        key for key in keys.FIELDS if not (info := keys.field(key)) or not info.description
    ]
    assert not undocumented
    assert all((part := keys.section(name)) and part.__doc__ for name in keys.SECTIONS)
    assert all(keys.legal_values(key) for key in keys.FIELDS)


def test_one_key_one_section() -> None:
    assert reference("optim.lr").splitlines() == [
        "# AdamW and its learning rate.",
        "optim:",
        "  # Peak learning rate.",
        "  # Legal: a number above 0.",
        "  lr: 0.0003",
    ]
    assert reference("optim").count("# Legal:") == len(json_schema("optim")["properties"])
    assert json_schema("optim.lr")["exclusiveMinimum"] == 0
    with pytest.raises(UserError, match=r"unknown key `optim\.lx`"):
        reference("optim.lx")


def test_choices_are_the_words_of_the_schema() -> None:
    info = keys.field("data.source")
    assert info is not None
    assert keys.choices("data.source") == list(get_args(info.annotation))
    assert keys.choices("parallel.dp") == ["auto"]
    assert keys.choices("optim.lr") == keys.choices("optim.zzz") == []


def test_synonyms_point_to_keys_that_exist() -> None:
    assert set(keys.SYNONYMS.values()) <= set(keys.FIELDS)
    last_parts = {key.partition(".")[2] for key in keys.FIELDS}
    assert not last_parts & keys.SYNONYMS.keys()

"""Where compiled graphs are kept, and which of them are whole. torch-xla's own: tests/xla."""

import json
from pathlib import Path

import pytest

from ndtrain.runtime.graph_cache import (
    NEURON_DEFAULT,
    NeuronCache,
    cache_folder,
    cache_place,
    find_cache,
    finished,
)
from ndtrain.runtime.native_cache import DEFAULT, DISABLING, VARIABLE


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, NEURON_DEFAULT),
        ({"NEURON_COMPILE_CACHE_URL": "/disk"}, "/disk"),
        ({"NEURON_COMPILE_CACHE_URL": "s3://bucket/cache"}, None),  # nothing to look into
        ({"NEURON_COMPILE_CACHE_URL": "/disk", "NEURON_CC_FLAGS": "--cache_dir=/own -O1"}, "/own"),
        ({"NEURON_CC_FLAGS": "--cache_dir /own"}, "/own"),
        ({"NEURON_CC_FLAGS": "-O1 --no_cache"}, None),
    ],
)
def test_neuron_s_variables_say_where_its_cache_is(
    variables: dict[str, str], folder: str | None
) -> None:
    assert cache_folder("neuronx-cc", variables) == (None if folder is None else Path(folder))
    assert (cache_place("neuronx-cc", variables) is None) == ("--no_cache" in str(variables))
    found = find_cache("neuronx-cc", 0, variables)
    assert (None if found is None else str(found.folder)) == folder


def test_torch_xla_has_a_cache_where_its_variable_names_one() -> None:
    assert cache_folder("torch-xla", {"XLA_PERSISTENT_CACHE_PATH": "/disk"}) == Path("/disk")
    assert find_cache("torch-xla", 0, {"XLA_PERSISTENT_CACHE_PATH": ""}) is None
    assert find_cache("torch-xla", 0, {}) is None


def test_native_pytorch_s_is_always_on_unless_it_is_turned_off() -> None:
    assert cache_place("torch-neuronx", {}) == DEFAULT
    assert cache_place("torch-neuronx", {VARIABLE: "/disk"}) == "/disk"
    for name in DISABLING:
        assert cache_place("torch-neuronx", {VARIABLE: "/disk", name: "1"}) is None
        assert cache_place("torch-neuronx", {VARIABLE: "/disk", name: "0"}) == "/disk"


def entry(folder: Path, name: str, *files: str) -> None:
    """Of Neuron's compiler, in the form of AWS's documentation."""
    path = folder / "neuronxcc-2.23" / name
    path.mkdir(parents=True)
    for file in files:
        (path / file).write_text("x")


def test_a_graph_that_neuron_s_compiler_has_begun_is_a_miss_but_not_finished(
    tmp_path: Path,
) -> None:
    cache = NeuronCache(tmp_path)
    assert (cache.num_misses(), cache.num_hits(), cache.num_unloadable()) == (0, 0, 0)
    entry(tmp_path, "MODULE_1+a", "model.neff", "model.done", "compile_flags.json")
    entry(tmp_path, "MODULE_2+a", "compile_flags.json")  # it compiles
    entry(tmp_path, "MODULE_3+a", "model.log", "model.done")  # it failed
    entry(tmp_path, "MODULE_4+a", "model.neff")
    entry(tmp_path, "MODULE_5+a", "model.done")
    (tmp_path / "neuronxcc-2.23" / "MODULE_5+a" / "model.neff").touch()  # cut
    assert cache.num_misses() == 5
    assert list(finished(tmp_path)) == ["neuronxcc-2.23/MODULE_1+a"]
    assert "neuronxcc-2.23/MODULE_2+a" in cache.entries()


def test_of_other_files_those_are_finished_that_a_record_names(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / "rank_0").mkdir(exist_ok=True)
        (tmp_path / "rank_0" / name).write_text("x")
    (tmp_path / "graphs").mkdir()
    (tmp_path / "rank_0" / "cut").touch()
    names = ["rank_0/1", "rank_0/cut", "rank_0/gone", "../rank_0/2", str(tmp_path / "rank_0" / "2")]
    (tmp_path / "graphs" / "a.json").write_text(json.dumps({"entries": names}))
    (tmp_path / "graphs" / "damaged.json").write_text("{")
    assert list(finished(tmp_path)) == ["rank_0/1"]

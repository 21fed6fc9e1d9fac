"""Every preset loads, fits its ranks, is commented, and composes with the others."""

import re
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from ndtrain.config import presets
from ndtrain.config.checks import check, legal_tp, world_size
from ndtrain.config.load import load

NAMES = presets.names()
SIZES = [name for name in NAMES if name.startswith("sizes/")]
RECIPES = [name for name in NAMES if name.startswith("recipes/")]

# Published Qwen3: layers, hidden, intermediate, query heads, tied embeddings, and the parameters
# that the model cards state. KV heads are 8, head_dim 128, the vocabulary 151936 in all of them.
PUBLISHED = {
    "qwen3_0.6b": (28, 1024, 3072, 16, True, 0.6e9),
    "qwen3_1.7b": (28, 2048, 6144, 16, True, 1.7e9),
    "qwen3_4b": (36, 2560, 9728, 32, True, 4.0e9),
    "qwen3_8b": (36, 4096, 12288, 32, False, 8.2e9),
    "qwen3_14b": (40, 5120, 17408, 40, False, 14.8e9),
    "qwen3_32b": (64, 5120, 25600, 64, False, 32.8e9),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_loads_and_fits_its_ranks(name: str) -> None:
    loaded = load(name)
    check(loaded.config, world_size(loaded.config), loaded.origins)
    assert set(loaded.origins.values()) != {"default"}


@pytest.mark.parametrize(("size", "recipe"), list(product(SIZES, RECIPES)))
def test_every_size_composes_with_every_recipe(size: str, recipe: str) -> None:
    loaded = load(f"{size}+{recipe}")
    check(loaded.config, world_size(loaded.config), loaded.origins)
    assert loaded.config.model.num_layers == load(size).config.model.num_layers
    assert loaded.config.optim == load(recipe).config.optim


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_preset_is_commented(name: str) -> None:
    path = presets.path_of(name)
    assert path is not None
    lines = path.read_text("utf-8").splitlines()
    assert re.fullmatch(r"# yaml-language-server: \$schema=(\.\./)*schema\.json", lines[0])
    assert (path.parent / lines[0].partition("=")[2]).resolve() == presets.folder() / "schema.json"
    keys = [at for at, line in enumerate(lines) if re.match(r"  [a-z_]+:", line)]
    uncommented = [lines[at] for at in keys if not lines[at - 1].startswith("  # ")]
    assert keys
    assert not uncommented
    assert presets.summary(name)


def test_short_names_are_unique() -> None:
    counts = Counter(name.rpartition("/")[2] for name in NAMES)
    assert max(counts.values()) == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    model = load(name).config.model
    layers, hidden, intermediate, heads, tied, parameters = PUBLISHED[name]
    assert (model.num_layers, model.hidden_size, model.intermediate_size) == (
        layers,
        hidden,
        intermediate,
    )
    assert (model.num_heads, model.tie_embeddings) == (heads, tied)
    assert (model.num_kv_heads, model.head_dim, model.vocab_size) == (8, 128, 151936)
    attention = 128 * hidden * (2 * heads + 2 * 8)
    block = attention + 3 * hidden * intermediate + 2 * hidden + 2 * 128
    total = layers * block + hidden + 151936 * hidden * (1 if tied else 2)
    assert total == pytest.approx(parameters, rel=0.02)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tp_that_a_size_comments_on_is_what_the_checks_allow(name: str) -> None:
    path = presets.path_of(name)
    assert path is not None
    said = re.search(r"this shape allows ([0-9, ]+)\.", path.read_text("utf-8"))
    assert said is not None
    assert [int(tp) for tp in said[1].split(", ")] == legal_tp(load(name).config)


def test_a_copy_loads_to_the_same_values(tmp_path: Path) -> None:
    for name in ("quickstart", "tiny", "qwen3_8b+pretrain"):
        copy = tmp_path / "copy.yaml"
        copy.write_text(presets.text_of_copy(name), "utf-8")
        assert load(str(copy)).config == load(name).config
        schema = copy.read_text("utf-8").splitlines()[0].partition("=")[2]
        assert schema == str(presets.folder() / "schema.json")

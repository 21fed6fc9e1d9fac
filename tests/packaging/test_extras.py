"""The optional dependencies: none of them can be met by a package that only holds a name."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ndtrain.cli.examinations import PLACEHOLDERS

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
EXTRAS = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_takes_a_placeholder(extra: str) -> None:
    requirements = [Requirement(line) for line in EXTRAS[extra]]
    assert requirements
    for requirement in requirements:
        placeholder = PLACEHOLDERS.get(requirement.name)
        assert placeholder is None or not requirement.specifier.contains(placeholder), requirement


def test_the_stack_of_trn1_is_named_whole() -> None:
    names = {Requirement(line).name for line in EXTRAS["neuron-xla"]}
    assert names == {"ndtrain", "torch-neuronx", "neuronx-cc", "libneuronxla"}


def test_the_native_stack_is_not_the_one_of_torch_xla() -> None:
    native = {Requirement(line).name: Requirement(line) for line in EXTRAS["neuron"]}
    assert "torch_xla" not in native
    for package in ("torch", "torch-neuronx"):
        assert native[package].specifier.contains("2.13.3.0")
        assert native[package].specifier.contains("2.14.3.0")
        assert not native[package].specifier.contains("2.9.0.2.15.32035")

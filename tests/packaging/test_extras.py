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

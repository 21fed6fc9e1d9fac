"""The optional dependencies: none of them can be met by a package that only holds a name."""

import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ndtrain.cli.examinations import PLACEHOLDERS
from ndtrain.runtime.neuron_packages import how_to_install, problem

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
LAUNCH = PYPROJECT.parent / "launch"
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


@pytest.mark.parametrize(("extra", "device"), [("neuron-xla", "trn1"), ("neuron", "trn2")])
def test_each_stack_has_its_versions_and_doctor_names_them(extra: str, device: str) -> None:
    file = LAUNCH / f"constraints-{extra}.txt"
    lines = [line for line in file.read_text("utf-8").splitlines() if line[0] != "#"]
    pins = {Requirement(line).name.replace("_", "-"): Requirement(line) for line in lines}
    versions = {name: str(pin.specifier)[2:].replace("*", "0") for name, pin in pins.items()}
    assert problem(versions, device) is None
    # The extra with what it takes from others of ours.
    more = EXTRAS["xla"] if extra == "neuron-xla" else []
    for requirement in map(Requirement, [*EXTRAS[extra], *more]):
        pinned = versions.get(requirement.name.replace("_", "-"))
        assert pinned is None or requirement.specifier.contains(pinned), requirement
    words = shlex.split(how_to_install(device))
    assert words[-3:] == ["-c", f"launch/{file.name}", f"ndtrain[{extra}]"]


def test_the_native_stack_is_not_the_one_of_torch_xla() -> None:
    native = {Requirement(line).name: Requirement(line) for line in EXTRAS["neuron"]}
    assert "torch_xla" not in native
    for package in ("torch", "torch-neuronx"):
        assert native[package].specifier.contains("2.13.3.0")
        assert native[package].specifier.contains("2.14.3.0")
        assert not native[package].specifier.contains("2.9.0.2.15.32035")

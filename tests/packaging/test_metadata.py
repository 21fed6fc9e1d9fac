"""What pyproject.toml says is true: packages, versions, ranges, licence."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ndtrain

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DATA_FOLDERS = {"ndtrain.configs", "ndtrain.launch"}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {Requirement(line).name.lower(): Requirement(line) for line in lines}


def constraints(name: str = "constraints.txt") -> dict[str, Requirement]:
    lines = (ROOT / "launch" / name).read_text("utf-8").splitlines()
    return requirements([line for line in lines if line and not line.startswith("#")])


def test_every_folder_with_python_is_a_listed_package() -> None:
    files = [*ROOT.glob("ndtrain/**/*.py"), *ROOT.glob("kernels/**/*.py")]
    folders = {file.parent.relative_to(ROOT).as_posix().replace("/", ".") for file in files}
    found = {f"ndtrain.{name}" if name.startswith("kernels") else name for name in folders}
    # When this fails: add the folder to `packages` in pyproject.toml, in alphabetical order.
    assert PROJECT["tool"]["setuptools"]["packages"] == sorted(found | DATA_FOLDERS)


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == ndtrain.__version__


def test_the_licence_is_named_and_there() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "Copyright 2026 The ndtrain authors" in text


def assert_pinned(accepted: dict[str, Requirement], pins: dict[str, Requirement]) -> None:
    assert pins.keys() == accepted.keys()
    for name, pin in pins.items():
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert accepted[name].specifier.contains(specifier.version), name


def test_the_pins_lie_in_the_accepted_ranges() -> None:
    project = PROJECT["project"]
    extras = {
        name: lines
        for name, lines in project["optional-dependencies"].items()
        if name not in ("xla", "neuron-xla", "neuron")  # environments of their own
    }
    accepted = requirements([*project["dependencies"], *(x for xs in extras.values() for x in xs)])
    del accepted["ndtrain"]
    pins = constraints()
    assert_pinned(accepted, pins)
    assert str(pins["torch"]) == "torch==2.13.0"


def test_the_pins_of_the_environment_of_torch_xla() -> None:
    accepted = requirements(PROJECT["project"]["optional-dependencies"]["xla"])
    assert_pinned(accepted, constraints("constraints-xla.txt"))


@pytest.mark.parametrize("version", ["2.9.0", "2.9.1+cpu", "2.13.0", "2.14.1"])
def test_the_torch_of_a_cluster_is_accepted(version: str) -> None:
    assert requirements(PROJECT["project"]["dependencies"])["torch"].specifier.contains(version)


@pytest.mark.parametrize("version", ["2.8.0", "2.15.0", "3.0"])
def test_other_torch_is_not(version: str) -> None:
    torch = requirements(PROJECT["project"]["dependencies"])["torch"]
    assert not torch.specifier.contains(version)

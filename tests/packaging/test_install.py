"""A wheel, an editable install and a bare checkout work alike, and leave `kernels` to others."""

import os
import zipfile
from pathlib import Path

import pytest

from ndtrain.config import presets
from tests.packaging.conftest import ROOT, Environment

# Top-level names that a checkout has as folders and that must not become importable.
FOREIGN = "kernels", "configs", "launch", "tests"
QUESTION = f"""
import importlib.util, sys
import ndtrain, ndtrain.kernels
foreign = [name for name in {FOREIGN!r} if importlib.util.find_spec(name)]
assert not foreign, foreign
assert "torch" not in sys.modules
print(ndtrain.kernels.__path__[0])
"""


def check_alike(environment: Environment) -> None:
    """Presets, kernels and the command, from a folder far from any checkout."""
    listed = environment.run("-m", "ndtrain", "config", "ls")
    names = [line.split()[0] for line in listed.splitlines() if line and "/" in line.split()[0]]
    assert names == [name for name in presets.names() if "/" in name]
    assert "ok    quickstart" in environment.run("-m", "ndtrain", "validate", "quickstart")
    kernels = Path(environment.run("-c", QUESTION).strip())
    assert sorted(file.name for file in kernels.glob("*.py")) == sorted(
        file.name for file in ROOT.glob("kernels/*.py")
    )


def test_a_bare_checkout_elsewhere(environment: Environment, tmp_path: Path) -> None:
    """Only `ndtrain/` is on the path, as a link; what stands beside the real one is found."""
    environment.see_our_packages()
    link = environment.packages / "ndtrain"
    link.symlink_to(ROOT / "ndtrain")
    check_alike(environment)


@pytest.mark.slow
def test_a_wheel_is_complete_and_works_without_the_checkout(
    environment: Environment, wheel: Path
) -> None:
    environment.pip("install", "--no-deps", "--no-index", str(wheel))
    environment.see_our_packages()
    check_alike(environment)
    assert os.access(environment.folder / "bin" / "ndtrain", os.X_OK)
    files = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in files}
    assert tops == {"ndtrain", "ndtrain-0.1.0.dist-info"}
    assert {"ndtrain/configs/schema.json", "ndtrain/launch/quickstart"} <= set(files)
    assert "ndtrain-0.1.0.dist-info/licenses/LICENSE" in files


@pytest.mark.slow
def test_an_editable_install(environment: Environment, checkout: Path) -> None:
    environment.see_our_packages()  # setuptools, which builds it, is among them
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    environment.pip("install", *options, "--editable", str(checkout))
    check_alike(environment)


# The oldest releases that pyproject accepts, beside the torch and numpy of a Trainium cluster.
OLD = {
    "torch": "2.9.0",
    "numpy": "1.26.4",
    "pydantic": "2.7.0",
    "pyyaml": "6.0",
    "click": "8.1.7",
    "safetensors": "0.4.3",
    "tokenizers": "0.19.0",
}


@pytest.mark.slow
def test_installing_beside_torch_2_9_changes_no_version(
    environment: Environment, wheel: Path
) -> None:
    """pip's own resolver decides, offline, from the wheel's metadata.

    It reads installed packages' metadata only, so theirs is written by hand: a real torch 2.9 would
    be a download of gigabytes and change nothing in the answer.
    """
    for package, version in OLD.items():
        environment.pretend(package, version)
    assert environment.would_install(str(wheel)) == {"ndtrain": "0.1.0"}


@pytest.mark.slow
def test_installing_beside_an_unsupported_torch_is_refused(
    environment: Environment, wheel: Path
) -> None:
    for package, version in (OLD | {"torch": "2.8.0"}).items():
        environment.pretend(package, version)
    # --no-index: there is no other torch to be had, so pip has to say no.
    with pytest.raises(AssertionError, match=r"torch<2\.15,>=2\.9"):
        environment.would_install(str(wheel))

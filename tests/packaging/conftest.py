"""A wheel of this checkout, and environments to put it in."""

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "ndtrain", "configs", "kernels", "launch")


class Environment:
    """A virtual environment without pip; the running interpreter's pip installs into it."""

    def __init__(self, folder: Path) -> None:
        venv.EnvBuilder(with_pip=False).create(folder)
        self.folder = folder
        self.python = folder / "bin" / "python"
        (self.packages,) = folder.glob("lib/python*/site-packages")

    def run(self, *arguments: str) -> str:
        """Output of the environment's Python, from a folder that holds nothing to import."""
        away = self.folder / "away"
        away.mkdir(exist_ok=True)
        command = [str(self.python), *arguments]
        names = ("PATH", "HOME", "LANG")
        variables = {name: os.environ[name] for name in names if name in os.environ}
        return _output(command, cwd=away, env=variables)

    def pip(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "--quiet"]
        # No configuration: it could name more places to install from.
        variables = {name: text for name, text in os.environ.items() if name[:4] != "PIP_"}
        variables["PIP_CONFIG_FILE"] = os.devnull
        return _output([*command, "--disable-pip-version-check", *arguments], env=variables)

    def see_our_packages(self) -> None:
        """Make this interpreter's packages importable, as --system-site-packages would."""
        # A folder named in a .pth file is searched, but the .pth files in it are not read: an
        # editable ndtrain of this interpreter stays out of sight.
        (self.packages / "ours.pth").write_text("\n".join(site.getsitepackages()), "utf-8")

    def pretend(self, package: str, version: str) -> None:
        """Metadata of an installed package, all that pip's resolver looks at."""
        info = self.packages / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        (info / "METADATA").write_text(text, "utf-8")
        (info / "INSTALLER").write_text("pip\n", "utf-8")
        (info / "RECORD").write_text("", "utf-8")

    def would_install(self, *arguments: str) -> dict[str, str]:
        """Name and version of what `pip install ARGUMENTS` would install or change."""
        report = self.pip("install", "--dry-run", "--no-index", "--report", "-", *arguments)
        metadata = [item["metadata"] for item in json.loads(report)["install"]]
        return {item["name"]: item["version"] for item in metadata}


def _output(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a package is built from, so that the build leaves nothing in this checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        source, copy = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, copy, ignore=ignore)
        else:
            shutil.copy(source, copy)
    return folder


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    _output([*command, "--wheel-dir", str(folder), str(checkout)])
    (built,) = folder.glob("*.whl")
    return built

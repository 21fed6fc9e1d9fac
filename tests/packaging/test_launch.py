"""The launch scripts: lint, and each way in which they refuse, without installing anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = (
    "launch/quickstart",
    "launch/test",
    "launch/environment.sh",
    "launch/slurm.sbatch",
    "launch/torchrun.sh",
    ".ci/run",
)
# Read by another program: a shell, and sbatch.
NOT_STARTED = ("launch/environment.sh", "launch/slurm.sbatch")
# The dev extra puts it beside the interpreter, where PATH need not look.
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that has only what the scripts read."""
    folder = tmp_path / "a checkout"
    shutil.copytree(ROOT / "launch", folder / "launch")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)
    return path


def start(
    checkout: Path, script: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NDTRAIN")}
    command = [str(checkout / "launch" / script), *arguments]
    return subprocess.run(
        command, cwd="/", env=kept | variables, capture_output=True, text=True, check=False
    )


def old_python(folder: Path) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        executable(folder / name, "exit 1")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse_and_are_executable(script: str) -> None:
    first_line = (ROOT / script).read_text("utf-8").partition("\n")[0]
    shell = "bash" if first_line.endswith("bash") else "sh"
    subprocess.run([shell, "-n", str(ROOT / script)], check=True)
    assert os.access(ROOT / script, os.X_OK) == (script not in NOT_STARTED)


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_nothing_to_say(script: str) -> None:
    command = [str(SHELLCHECK), "-x", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_without_a_python_that_is_new_enough(checkout: Path, tmp_path: Path) -> None:
    old_python(tmp_path / "bin")
    done = start(checkout, "quickstart", PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert done.returncode == 2
    assert "no Python 3.11, 3.12 or 3.13 on PATH" in done.stderr
    assert "apt install python3 python3-venv" in done.stderr


def test_a_named_python_that_is_too_old(checkout: Path, tmp_path: Path) -> None:
    old = executable(tmp_path / "python", "exit 1")
    done = start(checkout, "test", NDTRAIN_PYTHON=str(old))
    assert done.returncode == 2
    assert f"NDTRAIN_PYTHON={old} is not Python 3.11 to 3.13" in done.stderr


def test_without_the_venv_module(checkout: Path, tmp_path: Path) -> None:
    # Debian's python3 without python3-venv: supported, but ensurepip is missing.
    text = 'case "$2" in *ensurepip*) exit 1;; *print*) echo python3.11-venv;; esac'
    bare = executable(tmp_path / "python", text)
    done = start(checkout, "quickstart", NDTRAIN_PYTHON=str(bare))
    assert done.returncode == 2
    assert "apt install python3.11-venv" in done.stderr


def test_a_venv_that_is_none(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    done = start(checkout, "quickstart")
    assert done.returncode == 2
    assert "is not a virtual environment" in done.stderr


def fake_venv(folder: Path, pip: str = "exit 0") -> Path:
    """An environment whose Python notes its arguments; `pip` is what an installation does."""
    notes = folder / "notes"
    text = f'echo "$*" >>"{notes}"\ncase "$*" in *pip*) {pip};; esac'
    executable(folder / "bin" / "python", text)
    return notes


def test_a_second_start_skips_pip_until_something_changes(checkout: Path, tmp_path: Path) -> None:
    notes = fake_venv(tmp_path / "venv")
    variables = {"NDTRAIN_VENV": str(tmp_path / "venv")}

    def installations() -> int:
        assert start(checkout, "test", "-x", **variables).returncode == 0
        lines = notes.read_text("utf-8").splitlines()
        assert lines[-1] == "-m pytest tests -m not slow -x"
        return sum("pip install" in line for line in lines)

    assert [installations(), installations()] == [1, 1]
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert [installations(), installations()] == [2, 2]
    variables["NDTRAIN_INDEX_URL"] = "https://example.org/simple"
    assert installations() == 3
    last = [line for line in notes.read_text("utf-8").splitlines() if "pip install" in line][-1]
    assert "--extra-index-url https://example.org/simple" in last
    assert f"--constraint {checkout}/launch/constraints.txt" in last
    assert last.endswith(f"--editable {checkout}[dev]")


def test_a_failed_installation_is_tried_again(checkout: Path, tmp_path: Path) -> None:
    notes = fake_venv(tmp_path / "venv", pip="exit 1")
    for _ in range(2):
        done = start(checkout, "test", NDTRAIN_VENV=str(tmp_path / "venv"))
        assert done.returncode == 2
        assert "pip could not install ndtrain" in done.stderr
    assert notes.read_text("utf-8").count("pip install") == 2


def fake_ndtrain(checkout: Path, venv: Path, train: str) -> Path:
    """A `ndtrain` that notes its arguments; `train` is what training does."""
    notes = venv / "ndtrain-notes"
    text = f'echo "$*" >>"{notes}"\n[ "$1" != train ] || {{ {train}; }}'
    executable(venv / "bin" / "ndtrain", text)
    return notes


def test_quickstart_trains_samples_exports_and_says_where(checkout: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    fake_venv(venv)
    notes = fake_ndtrain(checkout, venv, "true")
    done = start(checkout, "quickstart", "train.steps=3", NDTRAIN_VENV=str(venv))
    assert done.returncode == 0, done.stderr
    commands = notes.read_text("utf-8").splitlines()
    assert commands[0].startswith("train quickstart train.steps=3 ")
    assert commands[1].startswith("generate runs/quickstart --prompt ")
    assert commands[2] == "export runs/quickstart runs/quickstart/huggingface"
    for place in ("", "/metrics.jsonl", "/trace", "/checkpoints", "/huggingface"):
        assert f"{checkout}/runs/quickstart{place}" in done.stdout


def test_a_second_quickstart_leaves_the_first_alone(checkout: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    fake_venv(venv)
    notes = fake_ndtrain(checkout, venv, "true")
    for name in ("quickstart", "quickstart-2"):
        (checkout / "runs" / name).mkdir(parents=True)
    assert start(checkout, "quickstart", NDTRAIN_VENV=str(venv)).returncode == 0
    commands = notes.read_text("utf-8").splitlines()
    assert "run.name=quickstart-3" in commands[0]
    assert commands[2] == "export runs/quickstart-3 runs/quickstart-3/huggingface"


def test_quickstart_stops_where_training_stops(checkout: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    fake_venv(venv)
    notes = fake_ndtrain(checkout, venv, "exit 3")
    assert start(checkout, "quickstart", NDTRAIN_VENV=str(venv)).returncode == 3
    assert len(notes.read_text("utf-8").splitlines()) == 1

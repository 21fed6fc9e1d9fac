"""env.json: enough to repeat a run, and no secret."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ndtrain
from ndtrain.observe.environment import available_cpus, describe_environment


def test_versions_are_those_in_use() -> None:
    environment = describe_environment()
    assert environment["ndtrain"] == ndtrain.__version__
    assert environment["packages"]["numpy"] == np.__version__
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["processor"]
    assert 1 <= environment["num_cpus"] <= (os.cpu_count() or 1)
    json.dumps(environment)


def test_variables_that_are_not_listed_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_do_not_write_me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do_not_write_me_either")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environment = describe_environment()
    assert "do_not_write_me" not in json.dumps(environment)
    assert environment["variables"]["OMP_NUM_THREADS"] == "3"


def test_torch_is_not_imported() -> None:
    program = (
        "import sys; from ndtrain.observe import run_directory, trace, console, metrics;"
        "run_directory.describe_environment(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def copy_of_package(folder: Path) -> Path:
    source = Path(ndtrain.__file__).parent
    for name in ("__init__.py", "observe/__init__.py", "observe/environment.py"):
        (folder / "ndtrain" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, folder / "ndtrain" / name)
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def git_state_seen_by(folder: Path) -> dict[str, object] | None:
    program = (
        "import json; from ndtrain.observe.environment import describe_environment;"
        "print(json.dumps(describe_environment()['git']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_checkout_that_runs(tmp_path: Path) -> None:
    folder = copy_of_package(tmp_path)
    git(folder, "init", "-q")
    assert git_state_seen_by(folder) is None, "an untracked copy has no commit"
    git(folder, "add", "ndtrain")
    git(folder, "commit", "-q", "-m", "first")
    commit = git(folder, "rev-parse", "HEAD")
    assert git_state_seen_by(folder) == {"commit": commit, "dirty": False}
    (folder / "ndtrain" / "observe" / "__init__.py").write_text("changed = True\n")
    assert git_state_seen_by(folder) == {"commit": commit, "dirty": True}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_available_cpus_follow_the_affinity() -> None:
    program = (
        "import os; from ndtrain.observe.environment import available_cpus;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(available_cpus())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == 1
    assert available_cpus() == len(os.sched_getaffinity(0))

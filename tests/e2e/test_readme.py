"""Every command that the README shows runs: here, or by `.ci/run` where it makes an environment."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BY_CI = {"launch/quickstart", "launch/test"}


def commands(readme: Path) -> list[str]:
    """Lines of fenced blocks that begin with a command of ours, without their comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("ndtrain ", "launch/"))]


SHOWN = commands(ROOT / "README.md")


def test_the_scripts_that_the_readme_shows_are_run_by_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    shown = {line.split()[0] for line in SHOWN if line.startswith("launch/")}
    assert shown == BY_CI
    assert "launch/test" in script
    assert "-m slow" in script  # test_quickstart.py is among them


@pytest.mark.parametrize("command", [line for line in SHOWN if line.startswith("ndtrain ")])
def test_the_readme_commands_run(command: str) -> None:
    if "--hlo" in command:  # by `.ci/run` in the environment that has it
        pytest.importorskip("torch_xla", reason="torch-xla is not installed")
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout

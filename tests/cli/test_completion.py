"""`ndtrain completion`: code that shells parse, and the words it completes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_names_our_variable_and_parses(run: Run, shell: str, tmp_path: Path) -> None:
    result = run("completion", shell)
    assert result.code == 0
    assert "_NDTRAIN_COMPLETE" in result.out
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(result.out, "utf-8")
        subprocess.run([shell, "-n", str(script)], check=True)


@pytest.mark.parametrize(
    ("words", "index", "expected"),
    [
        ("ndtrain tr", 1, "plain,train"),
        ("ndtrain train quick", 2, "plain,quickstart"),
        ("ndtrain config show qwen3_0", 3, "plain,qwen3_0.6b"),
        ("ndtrain completion z", 2, "plain,zsh"),
    ],
)
def test_words_are_completed(words: str, index: int, expected: str) -> None:
    environment = os.environ | {
        "_NDTRAIN_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(index),
    }
    command = [sys.executable, "-m", "ndtrain"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert expected in done.stdout.splitlines(), done.stderr


def test_an_unknown_shell_is_refused(run: Run) -> None:
    assert run("completion", "tcsh").code == 2

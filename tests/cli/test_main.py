"""The frame of the command line: help, lazy imports, errors, exit codes."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ndtrain.cli import commands, main
from ndtrain.cli.commands import Row
from ndtrain.core.errors import Unhealthy, UserError, UserErrors
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]


def fake(monkeypatch: pytest.MonkeyPatch, error: BaseException | int) -> None:
    """Make `ndtrain fake` a command that ends so."""

    @click.command()
    def command() -> int:
        if isinstance(error, BaseException):
            raise error
        return error

    monkeypatch.setattr(sys.modules[__name__], "FAKE", command, raising=False)
    row = Row("Test", f"{__name__}:FAKE", "")
    monkeypatch.setitem(commands.COMMANDS, "fake", row)


def test_help_shows_the_groups_in_order_and_every_command(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    headings = [line[:-1] for line in result.out.splitlines() if line.endswith(":")]
    assert headings[:5] == ["Options", "Train", "Config", "Models", "Look"]
    for name, row in commands.COMMANDS.items():
        assert f"  {name} " in result.out
        assert row.help in result.out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["trian"], ["completion", "zsh"]])
def test_the_frame_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from ndtrain.cli.main import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'pydantic', 'yaml', 'numpy', 'jinja2', 'transformers'};"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["config", "show", "quickstart"], ["validate", "tiny"]])
def test_configs_are_checked_without_torch(arguments: list[str]) -> None:
    program = (
        "import sys; from ndtrain.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit('torch' if 'torch' in sys.modules else code)"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_command_of_the_table_exists_and_says_the_same_of_itself(name: str, run: Run) -> None:
    row = commands.COMMANDS[name]
    module, _, attribute = row.target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert command.name == name
    assert (command.help or "").strip().splitlines()[0] == row.help
    result = run(name, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: ndtrain {name}")


# The sizes that `bench step` takes are named as in the config and explained there.
@pytest.mark.parametrize("name", commands.COMMANDS.keys() - {"bench"})
def test_every_option_has_words(name: str) -> None:
    module, _, attribute = commands.COMMANDS[name].target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    parts = [command, *getattr(command, "commands", {}).values()]
    options = [item for part in parts for item in part.params if isinstance(item, click.Option)]
    assert all(item.help for item in options), [item.opts for item in options if not item.help]


def test_the_version(run: Run) -> None:
    assert run("--version").out == "ndtrain 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "err"),
    [
        (
            ["trian", "x"],
            "there is no command `trian`\n  at the command line\n  help: did you mean",
        ),
        (["zzzzz"], "help: `ndtrain --help` lists the commands"),
        (["--hlep"], "no such option"),
        (["train"], "missing argument 'CONFIG'"),
        (["config", "shw"], "no such command 'shw'"),
        (["validate", "tiny", "--world-size", "0"], "invalid value for '--world-size'"),
        (["train", "--nproc", "3", "tiny"], "there is no option `--nproc`"),
        (["train", "tiny", "--zzz=3"], "see `ndtrain train --help`"),
        (["config", "show", "tiny", "--jsn"], "did you mean `--json`?"),
    ],
)
def test_usage_errors_are_three_lines_and_exit_2(run: Run, arguments: list[str], err: str) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert err in result.err
    assert len(result.err.splitlines()) == 3


@pytest.mark.parametrize(
    ("ending", "code", "err"),
    [
        (0, 0, ""),
        (75, 75, ""),
        (UserError("no", "here", "so"), 2, "error: no\n  at here\n  help: so\n"),
        (UserErrors([UserError("a"), UserError("b")]), 2, "error: a\nerror: b\n"),
        (Unhealthy("loss is nan"), 3, "error: loss is nan\n"),
        (KeyboardInterrupt(), 130, "\nerror: interrupted\n"),
        (RuntimeError("broken"), 1, "error: RuntimeError: broken\n  help: not a mistake of yours"),
        (RuntimeError(), 1, "error: RuntimeError: no message\n"),
    ],
)
def test_exit_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, ending: BaseException | int, code: int, err: str
) -> None:
    fake(monkeypatch, ending)
    result = run("fake")
    assert result.code == code
    assert result.err.startswith(err)
    assert "Traceback" not in result.err


def test_the_traceback_is_shown_on_request(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, RuntimeError("broken"))
    assert "NDTRAIN_DEBUG=1 shows the traceback" in run("fake").err
    monkeypatch.setenv("NDTRAIN_DEBUG", "1")
    assert "Traceback" in run("fake").err


def test_a_bare_checkout_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "ndtrain", "trian"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean `train`?" in done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m ndtrain config schema --format json | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"{", b"")


def test_colour_needs_a_terminal_and_no_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    from ndtrain.cli.terminal import paint

    class Terminal:
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("x", "red", terminal) == "\x1b[31m\x1b[1mx\x1b[0m"  # type: ignore[arg-type]
    assert paint("x", "red", open(os.devnull)) == "x"  # noqa: SIM115
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", terminal) == "x"  # type: ignore[arg-type]


def test_main_reads_sys_argv(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(sys, "argv", ["ndtrain", "--version"])
    assert main.main() == 0

"""`ndtrain generate|import|export`: what they hand to the parts that do the work."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ndtrain.core.errors import UserError
from tests.cli.conftest import Run


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **functions: object) -> None:
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def test_generate(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(*arguments: object) -> str:
        return repr(arguments)

    stand_in(monkeypatch, "ndtrain.train.sample", sample=sample)
    assert run("generate", "runs/a", "--prompt", "def ").out == (
        "('runs/a', 'def ', 64, 0.8, 0.95, 0)\n"
    )
    options = ["--max-new-tokens", "3", "--temperature", "0", "--top-p", "1", "--seed", "7"]
    result = run("generate", "runs/a", "--prompt", "", *options, "--json")
    assert json.loads(result.out) == {"prompt": "", "text": "('runs/a', '', 3, 0.0, 1.0, 7)"}


@pytest.mark.parametrize(
    "options",
    [["--top-p", "0"], ["--temperature", "-1"], ["--max-new-tokens", "0"], ["--seed", "-1"]],
)
def test_generate_refuses_what_has_no_meaning(run: Run, options: list[str]) -> None:
    result = run("generate", "runs/a", "--prompt", "x", *options)
    assert result.code == 2
    assert options[0] in result.err


@pytest.mark.parametrize(("command", "function"), [("import", "import"), ("export", "export")])
def test_import_and_export(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, function: str
) -> None:
    calls: list[tuple[Path, Path]] = []

    def convert(source: Path, destination: Path, **options: None) -> None:
        assert not any(options.values())
        calls.append((source, destination))

    name = "ndtrain.checkpoint.convert"
    stand_in(monkeypatch, name, **{f"{function}_folder": convert})
    assert run(command, "from", "to") == (0, "wrote to\n", "")
    assert calls == [(Path("from"), Path("to"))]

    def refuse(source: Path, destination: Path, **options: None) -> None:
        raise UserError("to exists")

    stand_in(monkeypatch, name, **{f"{function}_folder": refuse})
    assert run(command, "from", "to") == (2, "", "error: to exists\n")


def test_import_and_export_of_neuronx_distributed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []

    def convert(*arguments: object, **options: object) -> None:
        calls.append((*arguments, *options.values()))

    stand_in(monkeypatch, "ndtrain.checkpoint.convert", import_folder=convert)
    stand_in(monkeypatch, "ndtrain.checkpoint.nxd_writer", export_nxd=convert)
    options = ["--kv-copies", "trn1", "--optimizer"]
    assert run("import", "from", "to", *options) == (0, "wrote to\n", "")
    options = ["--format", "nxd", "--tp", "8", "--dp", "2"]
    assert run("export", "from", "to", *options) == (0, "wrote to\n", "")
    folders = (Path("from"), Path("to"))
    assert calls == [(*folders, "trn1", True), (*folders, 8, None, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "nxd"], "--format nxd needs --tp"),
        (["--tp", "2"], "are for --format nxd"),
        (["--dp", "2"], "are for --format nxd"),
        (["--kv-copies", "trn1"], "are for --format nxd"),
    ],
)
def test_export_refuses_options_that_do_not_fit(run: Run, options: list[str], message: str) -> None:
    result = run("export", "from", "to", *options)
    assert result.code == 2
    assert message in result.err

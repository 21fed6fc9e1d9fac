"""`ndtrain config show|ls|copy|schema`."""

import json
from pathlib import Path

from ndtrain.config import presets
from ndtrain.config.load import load
from tests.cli.conftest import Run


def test_show_with_origins_and_both_forms_of_overrides(run: Run) -> None:
    result = run("config", "show", "quickstart", "optim.lr=1", "--optim.eps=1e-4", "--origin")
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert result.code == 0
    assert {"lr: 1.0 # the command line", "eps: 0.0001 # the command line"} <= set(lines)


def test_show_without_origins_is_a_config(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text(run("config", "show", "quickstart").out, "utf-8")
    assert load(str(path)).config == load("quickstart").config


def test_show_as_json(run: Run) -> None:
    assert json.loads(run("config", "show", "tiny", "--json").out).keys() == {"config"}
    both = json.loads(run("config", "show", "tiny", "--json", "--origin").out)
    assert both["origins"]["optim.lr"] == "default"
    assert both["config"]["model"]["num_layers"] == 2


def test_ls_names_every_preset(run: Run) -> None:
    lines = run("config", "ls").out.splitlines()
    assert [line.split()[0] for line in lines[: lines.index("")]] == presets.names()
    rows = json.loads(run("config", "ls", "--json").out)
    assert [row["name"] for row in rows] == presets.names()
    assert all(row["summary"] for row in rows)


def test_copy_writes_a_file_that_loads_to_the_same(run: Run, tmp_path: Path) -> None:
    for name in ("quickstart", "tiny+pretrain"):
        path = tmp_path / "new" / f"{name}.yaml"
        assert run("config", "copy", name, str(path)) == (0, f"wrote {path}\n", "")
        assert load(str(path)).config == load(name).config


def test_copy_into_a_folder_names_the_file_after_the_preset(run: Run, tmp_path: Path) -> None:
    assert run("config", "copy", "sizes/tiny", str(tmp_path)).code == 0
    assert (tmp_path / "tiny.yaml").is_file()


def test_copy_replaces_nothing_unasked(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("precious", "utf-8")
    result = run("config", "copy", "tiny", str(path))
    assert (result.code, path.read_text("utf-8")) == (2, "precious")
    assert "--force replaces it" in result.err
    assert run("config", "copy", "tiny", str(path), "--force").code == 0
    assert "precious" not in path.read_text("utf-8")


def test_copy_to_where_nothing_can_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("config", "copy", "tiny", str(tmp_path / "file" / "below.yaml"))
    assert result.code == 2
    assert "cannot write" in result.err


def test_schema(run: Run) -> None:
    assert "  # Legal: a number above 0.\n  lr: 0.0003\n" in run("config", "schema").out
    assert run("config", "schema", "--field", "optim.lr").out.endswith("  lr: 0.0003\n")
    for option in (["--format", "json"], ["--json"]):
        assert json.loads(run("config", "schema", *option).out)["title"] == "Config"
    assert (
        "did you mean `optim.weight_decay`?"
        in run("config", "schema", "--field", "optim.weight_dcay").err
    )

"""`ndtrain validate`."""

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_good_configs(run: Run) -> None:
    result = run("validate", "quickstart", "qwen3_8b+pretrain")
    assert result == (0, "ok    quickstart\nok    qwen3_8b+pretrain\n", "")


def test_all_errors_of_all_configs(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("lr: 3\ntrain: {steps: off}\n", "utf-8")
    result = run("validate", str(wrong), "quickstart", "nothing")
    assert (result.code, result.out) == (2, "ok    quickstart\n")
    assert [line for line in result.err.splitlines() if line.startswith("error")] == [
        "error: unknown key `lr`",
        "error: train.steps='off' is not legal",
        "error: there is no preset `nothing`",
    ]
    assert f"  at {wrong}:2" in result.err.splitlines()


def test_a_world_size_that_does_not_fit(run: Run) -> None:
    result = run("validate", "quickstart", "--world-size", "3")
    assert result.code == 2
    assert "parallel.tp=2 does not divide the world size 3" in result.err


def test_overrides_are_set_in_every_config(run: Run) -> None:
    names = ("quickstart", "qwen3_8b+pretrain")
    assert run("validate", *names, "--world-size", "8", "parallel.tp=8").code == 0
    result = run("validate", *names, "--world-size", "8", "parallel.tp=3")
    assert result.err.count("parallel.tp=3 does not divide the world size 8") == 2
    result = run("validate", *names, "train.steps=7", "optim.lr=-1")
    assert (result.code, result.out) == (2, "")
    assert result.err.count("optim.lr=-1") == 2
    result = run("validate", "train.steps=7")
    assert (result.code, result.err.splitlines()[0]) == (2, "error: there is no config to check")


def test_json(run: Run) -> None:
    result = run("validate", "quickstart", "nothing", "--json")
    good, bad = json.loads(result.out)
    assert (result.code, result.err) == (2, "")
    assert good == {"config": "quickstart", "ok": True, "errors": []}
    assert bad["errors"][0]["what"] == "there is no preset `nothing`"

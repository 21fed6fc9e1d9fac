"""`ndtrain checkpoint ls|verify|prune`: what is said, and the exit codes."""

import json
from pathlib import Path

import pytest

from ndtrain.checkpoint.source import step_folder
from tests.checkpoint.folders import SHAPE, random_parameters, write_checkpoint
from tests.cli.conftest import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (7, 20, 300):
        write_checkpoint(step_folder(tmp_path, step), SHAPE, random_parameters(SHAPE, step), 1)
    return tmp_path


def flip(folder: Path) -> None:
    path = folder / "rank_0000_000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_ls(run: Run, folder: Path) -> None:
    (step_folder(folder, 20) / "rank_0000_000.safetensors").unlink()
    result = run("checkpoint", "ls", str(folder))
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    expected = f"{SHAPE.num_parameters():,} parameters in float32, weights, 0.1 MB"
    assert lines[0].endswith(expected)
    assert "`rank_0000_000.safetensors` is missing" in lines[1]
    rows = json.loads(run("checkpoint", "ls", str(folder), "--json").out)
    assert [row["complete"] for row in rows] == [True, False, True]
    assert rows[0]["resumable"] is False
    (folder / "other" / "checkpoints").mkdir(parents=True)
    assert "has no checkpoint" in run("checkpoint", "ls", str(folder / "other")).out


def test_verify_names_what_is_damaged_and_exits_3(run: Run, folder: Path) -> None:
    assert run("checkpoint", "verify", str(folder)).code == 0
    damaged = step_folder(folder, 20)
    flip(damaged)
    result = run("checkpoint", "verify", str(folder))
    assert result.code == 3
    assert f"at {damaged / 'rank_0000_000.safetensors'}" in result.err
    assert result.out.count("sound") == 2
    assert run("checkpoint", "verify", str(step_folder(folder, 7))).code == 0
    assert run("checkpoint", "verify", str(damaged)).code == 3
    rows = json.loads(run("checkpoint", "verify", str(folder), "--json").out)
    assert [row["sound"] for row in rows] == [True, False, True]


def test_prune(run: Run, folder: Path) -> None:
    assert "nothing to delete" in run("checkpoint", "prune", str(folder), "--keep-last", "3").out
    for step in (20, 300):
        flip(step_folder(folder, step))
    result = run("checkpoint", "prune", str(folder))
    assert result.code == 3  # what would stay is damaged, so the sound one stays too
    assert step_folder(folder, 7).exists()
    flip(step_folder(folder, 300))
    result = run("checkpoint", "prune", str(folder))
    assert (result.code, result.out) == (0, f"deleted {step_folder(folder, 7)}\n")


@pytest.mark.parametrize("command", ["ls", "verify", "prune"])
def test_other_folders_are_refused(run: Run, tmp_path: Path, command: str) -> None:
    assert run("checkpoint", command, str(tmp_path / "nowhere")).code == 2

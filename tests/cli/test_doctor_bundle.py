"""`ndtrain doctor --bundle`: it says what it packed and what it left out, and where."""

import tarfile
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.observe.report.runs import make_run


def test_a_bundle_of_a_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "small", num_steps=3).path
    (folder / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    result = run("doctor", "--bundle", str(folder))
    assert result.code == 0
    with tarfile.open(tmp_path / "small-bundle.tar.gz") as archive:
        names = [name.removeprefix("ndtrain-bundle/") for name in archive.getnames()]
        packages = archive.extractfile("ndtrain-bundle/packages.txt")
        assert packages is not None
        assert "torch==" in packages.read().decode()
    for name in names:
        assert f"  {name}\n" in result.out
    assert {"doctor.txt", "config.yaml", "metrics.jsonl"} <= set(names)
    assert "left out  notes.txt" in result.out
    assert "left out  checkpoints: weights" in result.out
    assert (
        str(tmp_path / "other.tar.gz")
        in run(*("doctor", "--bundle", str(folder), "-o", str(tmp_path / "other.tar.gz"))).out
    )


def test_refusals(run: Run, tmp_path: Path) -> None:
    assert "not a run directory" in run("doctor", "--bundle", str(tmp_path)).err
    assert run("doctor", "-o", "x").code == 2
    folder = make_run(tmp_path / "small", num_steps=1).path
    result = run("doctor", "--bundle", str(folder), "-o", str(tmp_path / "absent" / "x"))
    assert result.code == 2
    assert "cannot make the bundle" in result.err

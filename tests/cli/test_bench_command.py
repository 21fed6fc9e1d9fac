"""`ndtrain bench step` as it is typed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ndtrain.cli.bench import bench
from ndtrain.core.errors import UserError, UserErrors

# fmt: off
TINY = [
    "step", "--layers", "1", "--hidden", "32", "--intermediate", "64", "--heads", "4",
    "--kv-heads", "2", "--head-dim", "16", "--vocab", "64", "--sequence", "16", "--rounds", "2",
]
# fmt: on


def test_a_shape_that_ranks_cannot_share_is_refused_before_anything_starts() -> None:
    result = CliRunner().invoke(bench, ["step", "--ranks", "3"])
    assert isinstance(result.exception, UserErrors)
    assert "--heads 16 cannot be divided by --ranks 3" in str(result.exception)


def test_without_transformers_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.util.find_spec

    def without_transformers(name: str, package: str | None = None) -> object:
        return None if name == "transformers" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_transformers)
    result = CliRunner().invoke(bench, TINY)
    assert isinstance(result.exception, UserError)
    assert "pip install 'ndtrain[peers]'" in str(result.exception)


def test_a_job_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    result = CliRunner().invoke(bench, TINY)
    assert isinstance(result.exception, UserError)
    assert "--ranks is 2, but this job was started with 4" in str(result.exception)


@pytest.mark.slow
def test_two_ranks_end_to_end() -> None:
    pytest.importorskip("transformers")
    result = CliRunner().invoke(bench, [*TINY, "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)
    names = ["ours", "dtensor", "bare", "exchange", "transformers"]
    assert list(found["step_ms"]) == names
    assert all(len(times) == 2 for times in found["step_ms"].values())
    losses = [loss for loss in found["losses"].values() if loss is not None]
    assert losses == [pytest.approx(losses[0], rel=1e-5)] * 3
    assert set(found["memory_bytes"] or {"ours": 0, "dtensor": 0}) == {"ours", "dtensor"}


@pytest.mark.slow
def test_under_torchrun_it_measures_the_ranks_of_the_job(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    program = tmp_path / "rank.py"
    program.write_text("import sys\nfrom ndtrain.cli.main import main\nsys.exit(main())\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", str(program), "bench", *TINY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("ours / dtensor") == 1, "only rank 0 reports"
    assert "peak memory: not measured" in done.stdout

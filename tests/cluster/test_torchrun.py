"""launch/torchrun.sh without SLURM: it trains, and signals reach the ranks and not torchrun."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.cluster.node import can_choose_signals
from ndtrain.observe.sinks import read_jsonl
from tests.cluster.slurm_lab import wait_until
from tests.cluster.tiny_run import write_run

ROOT = Path(__file__).parents[2]
LIMIT_S = 240


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NDTRAIN")}
    path = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NDTRAIN_RANK_PYTHON": sys.executable}
    return kept | path | variables


@pytest.mark.slow
def test_a_node_whose_whole_tree_is_signalled_saves_and_ends_well(tmp_path: Path) -> None:
    """SLURM signals all processes of a job's step: torchrun, which would kill its ranks, too."""
    config = write_run(tmp_path, steps=100000)
    place = {"NDTRAIN_HEAD": "127.0.0.1", "NDTRAIN_NNODES": "1", "NDTRAIN_RANKS": "2"}
    place |= {"NDTRAIN_START": str(tmp_path / "start"), "NDTRAIN_PORT": "29473"}
    with (tmp_path / "output").open("w") as output:
        node = subprocess.Popen(
            ["bash", str(ROOT / "launch" / "torchrun.sh"), str(config), "parallel.dp=1"],
            env=environment(**place),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"

    def trains() -> bool:
        assert node.poll() is None, (tmp_path / "output").read_text()
        return metrics.exists() and any(record["step"] >= 2 for record in read_jsonl(metrics))

    try:
        wait_until(trains, LIMIT_S, "it trains")
        (folder,) = (tmp_path / "start").iterdir()
        ranks = sorted(folder.glob("rank_*.pid"))
        assert [file.name for file in ranks] == ["rank_0.pid", "rank_1.pid"]
        for pid in (node.pid, *(int(file.read_text()) for file in ranks)):
            os.kill(pid, signal.SIGTERM if can_choose_signals() else signal.SIGUSR1)
        assert node.wait(LIMIT_S) == 0, (tmp_path / "output").read_text()
    finally:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["retryable"]) == ("preempted", True)
    Checkpoint(run / status["checkpoint"]).verify()
    assert not list(folder.glob("rank_*.pid"))
    outputs = list(folder.glob("*/attempt_0/*/stdout.log"))
    assert {file.parent.name for file in outputs} == {"0", "1"}  # a log for each rank


def test_what_is_missing_is_named() -> None:
    command = ["bash", str(ROOT / "launch" / "torchrun.sh"), "tiny"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "NDTRAIN_HEAD: names the node where all meet" in done.stderr


def test_a_head_that_nobody_knows_ends_it_before_torchrun(tmp_path: Path) -> None:
    place = {"NDTRAIN_HEAD": "no-such-host.invalid", "NDTRAIN_NNODES": "1", "NDTRAIN_RANKS": "1"}
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "torchrun.sh"), "tiny"],
        env=environment(**place),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "`no-such-host.invalid` has no IPv4 address" in done.stderr

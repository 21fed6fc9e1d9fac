"""Jobs of the generated script on a real SLURM cluster: three nodes, in network namespaces here.

A job trains with TP=2 and DP=2 on two of them. What is compared bit by bit is a run of the same
layout that nobody disturbed.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ndtrain.checkpoint.format import Manifest
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.source import complete_checkpoints
from ndtrain.observe.sinks import read_jsonl
from tests.cluster.slurm_lab import Lab, missing, slurm_lab, wait_until
from tests.cluster.tiny_run import write_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 80  # seconds, in which SLURM has to preempt
LIMIT_S = 240  # for anything to come: nodes share two cores, and maybe a busy machine


class Cluster:
    """The lab with a configuration, and what jobs left in their run directories."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.config = write_run(folder, STEPS)

    def ndtrain(self, *arguments: str, **variables: str) -> str:
        """Runs a command of ndtrain here, outside of the cluster."""
        done = subprocess.run(
            [sys.executable, "-m", "ndtrain", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=2 * LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, name: str, *overrides: str, nodes: int = 2) -> str:
        """Writes the script of a job and gives it to sbatch; returns the job's id."""
        script = self.folder / f"{name}.sbatch"
        options = ["--nodes", str(nodes), "--hardware", "cpu", "--nproc-per-node", "2"]
        self.ndtrain(
            "slurm",
            str(self.config),
            *options,
            f"--sbatch=--export=ALL,PYTHONPATH={ROOT}",
            f"--out={script}",
            f"run.name={name}",
            *overrides,
        )
        return self.lab.run("sbatch", "--parsable", f"--chdir={self.folder}", str(script)).strip()

    def info(self, job: str) -> dict[str, str]:
        words = self.lab.run("scontrol", "show", "job", job, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_state(self, job: str, state: str, seconds: float = LIMIT_S) -> None:
        def has_state() -> bool:
            return self.info(job)["JobState"] == state

        try:
            wait_until(has_state, seconds, f"job {job} is {state}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.info(job)}\n{self.log(job)}") from None

    def log(self, job: str) -> str:
        return "".join(file.read_text() for file in self.folder.glob(f"*-{job}.log"))

    def wait_for_step(self, job: str, name: str, step: int) -> None:
        metrics = self.folder / name / "metrics.jsonl"

        def is_there() -> bool:
            state = self.info(job)["JobState"]
            assert state in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), self.log(job)
            return metrics.exists() and any(r["step"] >= step for r in read_jsonl(metrics))

        wait_until(is_there, LIMIT_S, f"{name} is at step {step}")

    def status(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / name / "status.json").read_text())

    def losses(self, name: str) -> list[tuple[int, str]]:
        records = read_jsonl(self.folder / name / "metrics.jsonl")
        return [(r["step"], float(r["loss"]).hex()) for r in records if "loss" in r]

    def final_files(self, name: str) -> dict[str, str]:
        manifest = Manifest.load(complete_checkpoints(self.folder / name)[-1])
        return {e.name: e.sha256 for e in manifest.files if e.name.endswith(".safetensors")}

    def undisturbed(self) -> str:
        """Name of a run of the same layout on this machine, made once."""
        if not (self.folder / "undisturbed").exists():
            ranks = ["--nproc-per-node", "4"]
            self.ndtrain("train", str(self.config), *ranks, "run.name=undisturbed")
        return "undisturbed"

    def pids(self, name: str, job: str, start: int, node: int) -> list[int]:
        folder = self.folder / f"{name}.slurm" / f"job_{job}" / f"start_{start}" / f"node_{node}"
        return [int(file.read_text()) for file in sorted(folder.glob("rank_*.pid"))]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("runs")
    with slurm_lab(tmp_path_factory.mktemp("slurm"), num_nodes=3) as lab:
        yield Cluster(lab, folder)


def test_a_preempted_job_saves_is_requeued_and_ends_as_if_nothing_had_been(
    cluster: Cluster,
) -> None:
    job = cluster.submit("preempted")
    cluster.wait_for_step(job, "preempted", 3)
    # It needs all nodes, and its partition comes first: SLURM sends USR1 to the job's batch shell.
    urgent = ("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=true")
    cluster.lab.run("sbatch", *urgent)
    wait_until(lambda: cluster.info(job).get("Restarts") == "1", LIMIT_S, "the job is requeued")
    cluster.wait_for_state(job, "COMPLETED")
    log = cluster.log(job)
    assert "USR1: the ranks are asked to save and to stop" in log
    assert "preempted at step" in log
    assert "resumed" in log
    assert cluster.status("preempted")["state"] == "finished"
    saved = [int(path.name[5:]) for path in complete_checkpoints(cluster.folder / "preempted")]
    assert len(saved) == 2
    assert 3 <= saved[0] < saved[1] == STEPS

    assert cluster.losses("preempted") == cluster.losses(cluster.undisturbed())
    assert cluster.final_files("preempted") == cluster.final_files(cluster.undisturbed())


def test_a_job_whose_time_is_nearly_over_saves_is_requeued_and_goes_on(cluster: Cluster) -> None:
    """SLURM compares the job's limit with the script's `--signal` every 30 s. Meanwhile few steps
    are wanted: slow ones."""
    slow = "cluster.environment=[NDTRAIN_FAULT=collective:slow:times=1000000:seconds=0.03]"
    job = cluster.submit("limited", slow)
    assert "#SBATCH --signal=B:USR1@300\n" in (cluster.folder / "limited.sbatch").read_text()
    cluster.wait_for_step(job, "limited", 2)
    limit = ["scontrol", "update", f"JobId={job}"]
    cluster.lab.run(*limit, "TimeLimit=5")  # minutes since its start: the signal is due
    wait_until(lambda: cluster.info(job).get("Restarts") == "1", LIMIT_S, "the job is requeued")
    cluster.lab.run(*limit, "TimeLimit=30")
    assert "USR1: the ranks are asked to save and to stop" in cluster.log(job)
    (saved,) = complete_checkpoints(cluster.folder / "limited")
    Checkpoint(saved).verify()
    step = int(saved.name[5:])
    cluster.wait_for_step(job, "limited", step + 2)
    (cluster.folder / "limited" / "STOP").touch()
    cluster.wait_for_state(job, "FAILED")  # what is short of its steps has not finished
    assert f"resumed {saved}" in cluster.log(job)
    losses = cluster.losses("limited")
    assert step + 2 <= len(losses) < STEPS
    assert losses == cluster.losses(cluster.undisturbed())[: len(losses)]


def test_scancel_leaves_a_state_that_loads_and_a_true_status(cluster: Cluster) -> None:
    job = cluster.submit("cancelled", "train.steps=100000")
    cluster.wait_for_step(job, "cancelled", 3)
    cluster.lab.run("scancel", job)
    cluster.wait_for_state(job, "CANCELLED")
    wait_until(lambda: cluster.status("cancelled")["state"] != "running", LIMIT_S, "it has stopped")
    status = cluster.status("cancelled")
    assert (status["state"], status["reason"]) == ("preempted", "signal TERM")
    Checkpoint(cluster.folder / "cancelled" / status["checkpoint"]).verify()


def test_a_node_whose_ranks_are_killed_goes_on_from_the_last_checkpoint(cluster: Cluster) -> None:
    job = cluster.submit("killed", "checkpoint.every_steps=4")
    cluster.wait_for_step(job, "killed", 9)
    for pid in cluster.pids("killed", job, start=0, node=1):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: cluster.info(job).get("Restarts") == "1", LIMIT_S, "the job is requeued")
    status = cluster.status("killed")
    assert (status["state"], status["retryable"]) == ("failed", True)
    Checkpoint(cluster.folder / "killed" / status["checkpoint"]).verify()
    cluster.wait_for_state(job, "COMPLETED")
    assert f"resumed {cluster.folder}/killed/checkpoints/step_" in cluster.log(job)
    assert cluster.losses("killed") == cluster.losses(cluster.undisturbed())
    assert cluster.final_files("killed") == cluster.final_files(cluster.undisturbed())


def test_the_doctor_names_the_node_at_the_end_of_a_broken_connection(cluster: Cluster) -> None:
    """SLURM notices nothing: it does not connect these two."""
    lab, folder = cluster.lab, cluster.folder / "examination"
    lab.on_node("node3", "ip", "route", "add", "blackhole", lab.address("node2"))
    arguments = ["doctor", "--cluster", "--nodes", "node1,node2,node3", "--folder", str(folder)]
    python = [f"PYTHONPATH={ROOT}", sys.executable, "-m", "ndtrain"]
    try:
        lab.run("srun", "--nodes=3", "env", *python, *arguments)
        done = lab.run("env", *python, *arguments, "--verdict", check=False)
    finally:
        lab.on_node("node3", "ip", "route", "del", "blackhole", lab.address("node2"))
    assert "fail  node3  network: " in done
    assert "it does not reach node2" in done
    assert "bad nodes: node3\n" in done


def test_a_node_that_cannot_reach_the_other_is_named_and_replaced(cluster: Cluster) -> None:
    lab = cluster.lab
    lab.on_node("node2", "ip", "route", "add", "blackhole", lab.address("node1"))
    try:
        job = cluster.submit("replaced", "train.steps=3")
        wait_until(lambda: cluster.info(job).get("Restarts") == "1", LIMIT_S, "the job is requeued")
        assert "bad nodes: node2" in cluster.log(job)
        assert "requeued without node2" in cluster.log(job)
        cluster.wait_for_state(job, "COMPLETED")
        assert cluster.info(job)["NodeList"] == "node[1,3]"
        assert cluster.status("replaced")["state"] == "finished"
    finally:
        lab.on_node("node2", "ip", "route", "del", "blackhole", lab.address("node1"))

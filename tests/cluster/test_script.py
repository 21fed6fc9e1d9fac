"""The script of a job: the one in launch/ is what the command writes, and each line has its reason.

How it behaves is tested with a srun and a scontrol of our own, which take the place of SLURM's: the
ranks are one process that saves when USR1 reaches it. test_slurm_jobs.py has the real ones.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndtrain.cluster import script
from ndtrain.cluster.finding import Finding
from ndtrain.cluster.preflight import NodeReport
from tests.cli.conftest import Run, run  # noqa: F401

ROOT = Path(__file__).parents[2]
SHOWN = ROOT / "launch" / "slurm.sbatch"
LIMIT_S = 240  # for a busy machine; a few seconds elsewhere


def test_the_script_in_launch_is_what_the_command_writes(
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    text = SHOWN.read_text("utf-8")
    match = re.search(r"^# Written by: ndtrain (.*)$", text, re.MULTILINE)
    assert match is not None
    result = run(*match[1].split(), "--python", ".venv/bin/python")
    assert result.code == 0
    assert result.out == text


def test_what_sbatch_is_told() -> None:
    options = re.findall(r"^#SBATCH (.*)$", SHOWN.read_text("utf-8"), re.MULTILINE)
    assert "--nodes=4" in options
    assert "--ntasks-per-node=1" in options  # torchrun starts the ranks
    assert "--wait-all-nodes=1" in options  # else nodes that still start fail the examination
    assert "--requeue" in options
    assert "--open-mode=append" in options  # a new start does not wipe the log of the last
    assert "--signal=B:USR1@300" in options  # to the batch shell alone


def test_the_examination_ends_within_a_minute() -> None:
    """Whatever a node does that cannot reach the others."""
    assert "timeout --kill-after=5 45 srun --kill-on-bad-exit=0" in script.body()


def test_what_torchrun_is_told() -> None:
    text = (ROOT / "launch" / "torchrun.sh").read_text("utf-8")
    assert "--rdzv-backend c10d" in text
    assert "--max-restarts 0" in text  # a new start is SLURM's and comes from a checkpoint
    assert "trap '' TERM USR1" in text


def test_a_config_of_ones_own_with_names_that_a_shell_would_break(
    run: Run,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = tmp_path / "my config.yaml"
    config.write_text("extends: [sizes/tiny]\n", "utf-8")
    arguments = ["--nodes", "2", "--hardware", "cpu", "--nproc-per-node", "1"]
    result = run("slurm", str(config), *arguments, f"run.directory={tmp_path}/a b", "optim.lr=1e-3")
    assert result.code == 0
    program = f'{head(result.out)}\nprintf "%s\\n" "$config" "${{overrides[@]}}" "$run"'
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        str(config),
        f"run.directory={tmp_path}/a b",
        "optim.lr=1e-3",
        f"{tmp_path}/a b/run",
    ]


def head(text: str) -> str:
    return text[: text.index(script.body())]


FAKE_SRUN = """#!/bin/bash
echo "$@" >>"$FAKE/srun"
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
FAKE_SCONTROL = """#!/bin/bash
echo "$@" >>"$FAKE/scontrol"
if [ "$1 $2" = "show hostnames" ]; then hostname; fi
"""
# Stands for torchrun and its ranks, in a process of its own as they are; it saves when it is told.
FAKE_RANKS = """#!/bin/bash
mkdir -p "$NDTRAIN_START/node_0" "$FAKE/run"
cat >"$FAKE/rank.sh" <<'END'
status() {
    printf '{"state": "%s", "step": %s, "checkpoint": %s, "reason": "%s", "retryable": true}' "$@" \
        >"$FAKE/run/status.json"
}
told() { status $OUTCOME; exit 0; }
trap told USR1
status running 3 null ""
echo $$ >"$NDTRAIN_START/node_0/rank_0.pid"
while sleep 0.1; do :; done
END
bash "$FAKE/rank.sh" &
wait
"""


class FakeCluster:
    """One node that is this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in (("srun", FAKE_SRUN), ("scontrol", FAKE_SCONTROL), ("ranks", FAKE_RANKS)):
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
            path.chmod(0o755)
        top = "\n".join(
            (
                "#!/bin/bash",
                "config=tiny overrides=()",
                f"run={folder}/run python={sys.executable} node_script={folder}/bin/ranks",
                "hardware=cpu ranks_per_node=1 lead=300 max_excluded=2\n",
            )
        )
        (folder / "job").write_text(top + script.body(), "utf-8")
        self._jobs: list[subprocess.Popen[str]] = []

    def end(self) -> None:
        for job in self._jobs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)

    def start(self, outcome: str, restarts: int = 0) -> subprocess.Popen[str]:
        variables = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FAKE": str(self.folder),
            "OUTCOME": outcome,
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node[1]",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_RESTART_COUNT": str(restarts),
            "SLURMD_NODENAME": socket.gethostname(),
        }
        job = subprocess.Popen(
            ["bash", str(self.folder / "job")],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._jobs.append(job)
        return job

    def until_ranks_run(self, restarts: int = 0) -> None:
        file = self.folder / f"run.slurm/job_7/start_{restarts}/node_0/rank_0.pid"
        deadline = time.monotonic() + LIMIT_S
        while not (file.exists() and file.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def notes(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text("utf-8").splitlines() if file.exists() else []


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeCluster]:
    cluster = FakeCluster(tmp_path)
    yield cluster
    cluster.end()


@pytest.mark.parametrize(
    ("outcome", "code", "is_requeued"),
    [
        ('preempted 3 "checkpoints/step_00000003" USR1', 0, True),
        ("preempted 3 null USR1", 1, False),  # no progress: it would start over and over
        ('finished 9 "checkpoints/step_00000009" -', 0, False),
        ('failed 3 "checkpoints/step_00000003" lost', 0, True),
    ],
)
def test_usr1_reaches_the_ranks_and_status_json_decides_on_a_requeue(
    fake: FakeCluster, outcome: str, code: int, is_requeued: bool
) -> None:
    job = fake.start(outcome)
    fake.until_ranks_run()
    job.send_signal(signal.SIGUSR1)  # to the batch shell alone; srun would die of it
    output, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == code, output
    assert "USR1: the ranks are asked to save and to stop" in output
    assert ("requeue 7" in fake.notes("scontrol")) == is_requeued
    # A preflight with a task a node, then the ranks.
    assert len(fake.notes("srun")) == 2


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_only_compiles_ends_as_its_ranks_do(
    fake: FakeCluster, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no status that could say more, and is never requeued."""
    (fake.folder / "bin" / "ranks").write_text(
        f'test "$NDTRAIN_WORK" = precompile || exit 9\nexit {code}\n', "utf-8"
    )
    monkeypatch.setenv("NDTRAIN_WORK", "precompile")
    job = fake.start("-")
    output, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == code, output
    assert not (fake.folder / "run").exists()
    assert "requeue 7" not in fake.notes("scontrol")


def test_a_later_start_goes_on_from_the_checkpoint(fake: FakeCluster) -> None:
    (fake.folder / "run").mkdir()
    status = {"state": "preempted", "step": 3, "checkpoint": "checkpoints/step_00000003"}
    (fake.folder / "run" / "status.json").write_text(json.dumps(status))
    # No step more than before: whatever stopped it would stop it again.
    job = fake.start('preempted 3 "checkpoints/step_00000003" USR1', restarts=1)
    fake.until_ranks_run(restarts=1)
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=LIMIT_S)
    assert fake.notes("srun")[-1].endswith("tiny checkpoint.resume=auto")
    assert (job.returncode, "requeue 7" in fake.notes("scontrol")) == (1, False), output
    assert "nothing was saved since step 3, so it would loop" in output


def test_ranks_that_die_without_a_word_leave_a_status_that_says_so(fake: FakeCluster) -> None:
    job = fake.start("-")
    fake.until_ranks_run()
    pid = int((fake.folder / "run.slurm/job_7/start_0/node_0/rank_0.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    output, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 1, output
    status = json.loads((fake.folder / "run" / "status.json").read_text())
    assert (status["state"], status["step"], status["retryable"]) == ("failed", 3, True)
    assert "the ranks ended without a word" in status["reason"]


# In place of the examination of two nodes, of which one did not start.
FAKE_EXAMINATION = """#!/bin/bash
while [ "$1" != --folder ]; do shift; done
mkdir -p "$2"
cp "$FAKE/node1.report.json" "$2"
"""


def test_a_bad_node_is_replaced_and_too_many_end_the_job(fake: FakeCluster) -> None:
    (fake.folder / "bin" / "srun").write_text(FAKE_EXAMINATION, "utf-8")
    two_nodes = FAKE_SCONTROL.replace("hostname;", "echo node1; echo ghost;")
    (fake.folder / "bin" / "scontrol").write_text(two_nodes, "utf-8")
    NodeReport("node1", [Finding("ok", "versions", "python 3")]).write(fake.folder)
    output, _ = fake.start("-").communicate(timeout=LIMIT_S)
    assert "bad nodes: ghost" in output
    # In this order: SLURM takes the second from a job that waits.
    assert fake.notes("scontrol")[-2:] == ["requeue 7", "update JobId=7 ExcNodeList=ghost"]

    text = (fake.folder / "job").read_text("utf-8")
    (fake.folder / "job").write_text(text.replace("max_excluded=2", "max_excluded=0"))
    job = fake.start("-", restarts=1)
    output, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 1
    assert "more than 0 bad nodes: ghost" in output

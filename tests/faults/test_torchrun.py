"""Under torchrun: stops are saved whoever gets the signal, and the same command goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.runs import TIMEOUT_S, Case

ROOT = Path(__file__).parents[2]
# One form of overlap for all: `auto` might choose another one in the run that it is compared with.
COMMON = ("parallel.tp=2", "overlap.mode=ring", "train.eval_every=0", "checkpoint.every_steps=0")
LONG = "train.steps=100000"


class Torchrun:
    """`torchrun --nproc-per-node 2 -m ndtrain train ...`, in a session of its own."""

    def __init__(self, case: Case, *overrides: str) -> None:
        self.output = case.folder / "torchrun.txt"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        program = ["--nproc-per-node", "2", "-m", "ndtrain", "train", str(case.config)]
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(
                [*launcher, *program, *COMMON, *overrides],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                pytest.fail(f"it never came to that:\n{self.output.read_text()}")
            time.sleep(0.02)

    def wait(self) -> int:
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.end()
            pytest.fail(f"it did not end:\n{self.output.read_text()}")

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def rank_process(self, rank: int) -> int:
        """Its process id: the one child whose environment says so."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text().split():
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if b"RANK=%d" % rank in environment:
                return int(pid)
        pytest.fail("there is no such rank")


@pytest.fixture
def start(case: Case) -> Iterator[Callable[..., Torchrun]]:
    started: list[Torchrun] = []

    def start(*overrides: str) -> Torchrun:
        started.append(Torchrun(case, *overrides))
        return started[-1]

    yield start
    for run in started:
        run.end()


def assert_stopped(case: Case, reason: str) -> int:
    """At the last step in the metrics, which is saved. Returns it."""
    status, step = case.status(), case.step()
    assert (status["state"], status["reason"]) == ("preempted", reason)
    assert status["retryable"]
    assert status["step"] == step
    assert case.checkpoints()[-1].name == f"step_{step:08d}"
    return step


@pytest.mark.slow
def test_ranks_save_and_stop_when_torchrun_is_killed(
    case: Case, start: Callable[..., Torchrun]
) -> None:
    run = start(LONG)
    run.until(lambda: case.step() >= 2)
    ranks = [run.rank_process(rank) for rank in range(2)]
    run.process.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        if time.monotonic() > deadline:
            for rank in ranks:
                os.kill(rank, signal.SIGKILL)
            pytest.fail(f"they train on:\n{run.output.read_text()}")
        time.sleep(0.1)
    assert_stopped(case, "the launcher of a rank is gone")
    assert "the same command goes on from here" in run.output.read_text()


@pytest.mark.slow
def test_stops_and_resumes(case: Case, start: Callable[..., Torchrun]) -> None:
    run = start(LONG)
    run.until(lambda: case.step() >= 2)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 1, run.output.read_text()  # torchrun's own: it was told to go
    first = assert_stopped(case, "signal TERM")

    run = start(LONG)
    run.until(lambda: case.step() >= first + 2)
    os.kill(run.rank_process(1), signal.SIGUSR1)
    assert run.wait() == 0, run.output.read_text()  # no rank failed
    second = assert_stopped(case, "signal USR1")
    assert re.search(rf"resumed .*step_{first:08d}", run.output.read_text())

    steps = f"train.steps={second + 2}"
    run = start(steps)
    assert run.wait() == 0, run.output.read_text()
    assert case.status()["state"] == "finished"
    whole = Case(case.folder / "whole")
    whole.start(*COMMON, steps, num_ranks=2, tp=2).finish()
    assert case.losses() == whole.losses()
    assert case.final_files() == whole.final_files()

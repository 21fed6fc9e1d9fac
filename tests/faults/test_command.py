"""`ndtrain train` as a user starts it: what the launcher does with signals and with dead ranks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ndtrain.train.processes import Ranks
from tests.faults.runs import TIMEOUT_S, Case

LONG = ("train.steps=100000", "train.eval_every=0", "checkpoint.every_steps=0")
ROOT = Path(__file__).parents[2]


class Command:
    """Ended with the test, its ranks too: they notice that their launcher is gone."""

    def __init__(self, case: Case, *overrides: str) -> None:
        self.case = case
        arguments = [str(case.config), "--nproc-per-node", "2", "parallel.tp=2", *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.output = case.folder / "command.txt"
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ndtrain", "train", *arguments],
                cwd=ROOT,
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(f"it never came to that:\n{self.output.read_text()}")
            time.sleep(0.02)

    def wait(self) -> int:
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"it did not end:\n{self.output.read_text()}")

    def rank_processes(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]


def test_term_to_the_launcher_saves_and_exits_75(case: Case) -> None:
    command = Command(case, *LONG)
    command.until(lambda: case.step() >= 1)
    command.process.send_signal(signal.SIGTERM)
    assert command.wait() == 75, command.output.read_text()
    assert case.status()["state"] == "preempted"
    assert case.status()["reason"] == "signal TERM"
    assert case.checkpoints()[-1].name == f"step_{case.step():08d}"


@pytest.mark.slow
def test_ctrl_c_saves_and_a_second_one_leaves_at_once(case: Case) -> None:
    command = Command(case, *LONG)
    command.until(lambda: case.step() >= 1)
    command.process.send_signal(signal.SIGINT)
    assert command.wait() == 130, command.output.read_text()
    assert "the same command goes on from here" in command.output.read_text()
    saved = case.checkpoints()
    assert len(saved) == 1
    command = Command(case, *LONG)
    command.until(lambda: case.step() > int(saved[0].name[-8:]))
    ranks = command.rank_processes()
    for rank in ranks:  # so that the first one cannot be answered
        os.kill(rank, signal.SIGSTOP)
    command.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert command.process.poll() is None
    command.process.send_signal(signal.SIGINT)
    start = time.monotonic()
    assert command.wait() == 130
    assert time.monotonic() - start < 10
    assert case.checkpoints() == saved


@pytest.mark.slow
def test_a_rank_that_the_system_kills_is_told_of(case: Case) -> None:
    command = Command(case, *LONG)
    command.until(lambda: case.step() >= 1)
    os.kill(command.rank_processes()[1], signal.SIGKILL)
    assert command.wait() == 1
    assert "rank 1 was ended by SIGKILL" in command.output.read_text()
    assert case.status()["state"] == "failed"
    assert case.status()["retryable"]


@pytest.mark.slow
def test_term_before_anything_can_be_saved_exits_143(case: Case) -> None:
    command = Command(case, *LONG)
    command.until(lambda: case.directory.exists())
    command.process.send_signal(signal.SIGTERM)
    assert command.wait() == 143, command.output.read_text()
    assert not case.checkpoints()


@pytest.mark.slow
def test_ranks_stop_when_their_launcher_is_killed(case: Case) -> None:
    command = Command(case, *LONG)
    command.until(lambda: case.step() >= 1)
    ranks = command.rank_processes()
    command.process.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() < deadline, "they train on"
        time.sleep(0.1)
    assert case.status()["reason"] == "the launcher of a rank is gone"
    assert case.checkpoints()[-1].name == f"step_{case.step():08d}"
    assert case.status()["state"] == "preempted"
    assert len(case.checkpoints()) == 1


def ended(monkeypatch: pytest.MonkeyPatch, *programs: str) -> tuple[int, str]:
    """The launcher's verdict on ranks that run these shell programs."""
    monkeypatch.setattr("ndtrain.train.processes.GRACE_S", 0.5)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    cases = "; ".join(f"[ $RANK = {rank} ] && {{ {text}; }}" for rank, text in enumerate(programs))
    try:
        ranks = Ranks(["sh", "-c", f"{cases}; exit 0"], len(programs), dict(os.environ))
        return ranks.wait(), ranks.died
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_verdict_on_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, "exit 0", "exit 0") == (0, "")
    assert ended(monkeypatch, "exit 75", "exit 75") == (75, "")
    assert ended(monkeypatch, "exit 0", "exit 3") == (3, "")
    # The first failure counts, and nobody waits for ranks that will never end.
    assert ended(monkeypatch, "sleep 60", "exit 2") == (2, "")
    code, died = ended(monkeypatch, "kill -KILL $$", "sleep 60")
    assert (code, died) == (1, "rank 0 was ended by SIGKILL")

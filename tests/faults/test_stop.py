"""A request to any one rank is one step of all ranks: saved, told by code and status, resumable."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from ndtrain.train.stop import Request, StopRequests, exit_code
from tests.faults.runs import Case

# Of five starts each; NDTRAIN_DRILLS=40 makes it 200 starts.
NUM_DRILLS = int(os.environ.get("NDTRAIN_DRILLS", "6"))
LONG = ("train.steps=100000", "checkpoint.every_steps=0", "train.eval_every=0")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 75, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_last_rank_stops_all_at_one_step(
    case: Case, number: signal.Signals, code: int
) -> None:
    run = case.start(*LONG, num_ranks=2, tp=2)
    run.until(lambda: case.step() >= 1)
    run.signal(1, number)
    run.finish(code)
    stopped(case)


def stopped(case: Case) -> None:
    status = case.status()
    step = case.step()
    assert status["state"] == "preempted"
    assert status["step"] == step
    assert status["checkpoint"] == f"checkpoints/step_{step:08d}"
    assert [path.name for path in case.checkpoints()] == [f"step_{step:08d}"]
    assert status["retryable"] == (status["reason"] != "Ctrl-C")


def test_files_and_budget(case: Case) -> None:
    run = case.start(*LONG)
    run.until(lambda: case.step() >= 1)
    (case.directory / "SAVE").touch()
    run.until(lambda: not (case.directory / "SAVE").exists())
    assert len(case.checkpoints()) == 1
    assert case.status()["state"] == "running"
    (case.directory / "STOP").touch()
    run.finish(75)
    assert not (case.directory / "STOP").exists()
    assert case.status()["reason"] == "the file STOP was there"
    before = case.step()
    run = case.start(*LONG, "train.max_minutes=0.0001")
    run.finish(75)
    assert case.status()["reason"] == "train.max_minutes is over"
    # The budget was over before the first step: nothing new to save, and the old state is named.
    assert case.step() == before
    assert case.status()["checkpoint"] == f"checkpoints/step_{before:08d}"


def test_the_heaviest_request_counts_and_decides_the_code(tmp_path: Path) -> None:
    requests = StopRequests(tmp_path, max_minutes=None, is_first_rank=True)
    assert requests.pending() is Request.NONE
    (tmp_path / "SAVE").touch()
    assert requests.pending() is Request.SAVE
    (tmp_path / "STOP").touch()
    assert requests.pending() is Request.FILE
    assert StopRequests(tmp_path, None, is_first_rank=False).pending() is Request.NONE
    assert StopRequests(tmp_path, 1e-9, is_first_rank=False).pending() is Request.BUDGET
    requests.settle(Request.SAVE)
    assert requests.pending() is Request.FILE
    requests.settle(Request.FILE)
    assert requests.pending() is Request.NONE
    assert exit_code(Request.TERM, is_saved=True) == exit_code(Request.FILE, is_saved=False) == 75
    assert exit_code(Request.TERM, is_saved=False) == 143
    assert exit_code(Request.INTERRUPT, is_saved=True) == 130


def test_a_signal_is_only_noted(tmp_path: Path) -> None:
    requests = StopRequests(tmp_path, None, True)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        requests.listen()
        for number, request in (
            (signal.SIGUSR1, Request.USR1),
            (signal.SIGTERM, Request.TERM),
            (signal.SIGINT, Request.INTERRUPT),
            (signal.SIGUSR1, Request.INTERRUPT),
        ):
            signal.raise_signal(number)
            assert requests.pending() is request
        other = threading.Thread(target=requests.listen)  # may not, and must not fail
        other.start()
        other.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("is_torchrun", [False, True])
def test_a_rank_of_torchrun_looks_whether_its_parent_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_torchrun: bool
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if is_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    requests = StopRequests(tmp_path, None, True)
    assert requests.pending() is Request.NONE
    monkeypatch.setattr(os, "getppid", lambda: 1)  # whoever adopts orphans
    assert requests.pending() is (Request.ORPHANED if is_torchrun else Request.NONE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_DRILLS))
def test_any_rank_at_any_moment(case: Case, seed: int) -> None:
    """Five starts each: signalled while starting, stepping, evaluating, saving."""
    generator = random.Random(seed)
    num_ranks, tp = generator.choice([(1, 1), (2, 1), (2, 2)])
    busy = ("train.steps=100000", "checkpoint.every_steps=1", "train.eval_every=1")
    reached = 0
    for _ in range(5):
        run = case.start(*busy, num_ranks=num_ranks, tp=tp)
        if generator.random() < 0.7:
            run.until(lambda before=reached: case.step() > before)
        time.sleep(generator.random())
        number = generator.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
        run.signal(generator.randrange(num_ranks), number)
        codes = run.wait()
        assert len(set(codes)) == 1 or min(codes) < 0, run.output
        if min(codes) < 0:
            continue  # it had not begun to listen; the launcher's part, see test_command.py
        assert codes[0] in (75, 130, 143), run.output
        assert (codes[0] == 143) == (not case.checkpoints() and number == signal.SIGTERM)
        steps = [record["step"] for record in case.records() if "loss" in record]
        assert steps == list(range(1, len(steps) + 1))  # none twice, none missing
        if case.checkpoints():
            assert case.status()["state"] == "preempted"
            assert case.checkpoints()[-1].name == f"step_{case.step():08d}"
        reached = case.step()

"""What a job does when its ranks have ended: every state, with progress and without."""

import json
from pathlib import Path

import pytest

from ndtrain.cluster import restart
from ndtrain.cluster.restart import FINISHED, REQUEUE, STAYS
from ndtrain.core.errors import UserError
from ndtrain.observe.run_directory import RunDirectory, State, Status

SAVED = "checkpoints/step_00000020"


@pytest.mark.parametrize(
    ("state", "checkpoint", "reason", "retryable", "code"),
    [
        ("finished", SAVED, "", False, FINISHED),
        ("preempted", SAVED, "signal USR1", True, REQUEUE),
        ("preempted", SAVED, "train.max_minutes is over", True, REQUEUE),
        ("failed", SAVED, "ConnectionError", True, REQUEUE),
        # Nothing new since the start found step 10.
        ("preempted", "checkpoints/step_00000010", "signal USR1", True, STAYS),
        ("failed", "checkpoints/step_00000010", "ConnectionError", True, STAYS),
        ("failed", None, "ConnectionError", True, STAYS),
        # Somebody wants it to rest, or SLURM decides itself.
        ("preempted", SAVED, "the file STOP was there", True, STAYS),
        ("preempted", SAVED, "signal TERM", True, STAYS),
        ("preempted", SAVED, "Ctrl-C", False, STAYS),
        # It would fail again.
        ("unhealthy", SAVED, "the loss is nan", False, STAYS),
        ("failed", SAVED, "a mistake in the config", False, STAYS),
        # Of another run, under a name of its own.
        ("failed", "/elsewhere/best", "ConnectionError", True, STAYS),
    ],
)
def test_a_new_start_needs_a_reason_and_progress(
    state: State, checkpoint: str | None, reason: str, retryable: bool, code: int
) -> None:
    status = Status(state=state, step=23, checkpoint=checkpoint, reason=reason, retryable=retryable)
    decision = restart.decide(status, begun=10)
    assert decision.code == code
    assert f"{state} at step 23" in decision.reason


def test_begin_notes_the_checkpoint_and_end_compares_with_it(tmp_path: Path) -> None:
    run, start = RunDirectory(tmp_path / "run"), tmp_path / "start"
    start.mkdir()
    assert restart.begin(run.path, start).endswith("a new run")
    run.path.mkdir()
    run.write_status(Status(state="preempted", step=20, checkpoint=SAVED, retryable=True))
    assert restart.end(run.path, start, 0).code == REQUEUE
    assert "preempted at step 20" in restart.begin(run.path, start)
    assert restart.end(run.path, start, 0).code == STAYS


def test_a_status_that_says_running_is_corrected(tmp_path: Path) -> None:
    run, start = RunDirectory(tmp_path / "run"), tmp_path
    run.path.mkdir()
    restart.begin(run.path, start)
    run.write_status(Status(state="running", step=23, checkpoint=SAVED))
    assert restart.end(run.path, start, 137).code == REQUEUE
    status = run.status()
    assert status is not None
    assert (status.state, status.step, status.checkpoint) == ("failed", 23, SAVED)
    assert "srun's exit code 137" in status.reason
    assert status.retryable


def test_a_run_that_never_came_to_be(tmp_path: Path) -> None:
    restart.begin(tmp_path / "run", tmp_path)
    assert restart.end(tmp_path / "run", tmp_path, 2).code == STAYS
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("save_s", "lead_s", "warns"), [(200, 300, True), (200, 402, False), (20, 60, False)]
)
def test_a_script_whose_signal_has_become_too_late_is_said(
    tmp_path: Path, save_s: int, lead_s: int, warns: bool
) -> None:
    assert restart.too_short(tmp_path, 60) is None  # nothing to measure yet
    records = [{"step": 1, "step_ms": 1e3}, {"step": 1, "save_ms": save_s * 1e3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    warning = restart.too_short(tmp_path, lead_s)
    assert (warning is not None) == warns
    if warning is not None:
        assert "USR1 comes 300 s early" in warning
        assert "the longest save (200.0 s)" in warning


def test_a_stop_that_slurm_cannot_wait_for_is_no_reason_not_to_start(tmp_path: Path) -> None:
    records = [{"step": 1, "step_ms": 1e3}, {"step": 1, "save_ms": 40e6}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert (restart.too_short(tmp_path, 300) or "").startswith("warning: a stop takes 80002 s")


def test_the_program_of_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert restart.main(["begin", str(run), str(tmp_path), "300"]) == 0
    run.mkdir()
    RunDirectory(run).write_status(Status(state="finished", step=20, checkpoint=SAVED))
    assert restart.main(["end", str(run), str(tmp_path), "0"]) == FINISHED
    assert capsys.readouterr().out.splitlines()[-1] == "finished at step 20"
    (run / "status.json").write_text(json.dumps({"state": "dreaming"}))
    assert restart.main(["begin", str(run), str(tmp_path), "300"]) == UserError.exit_code
    assert "not the status of a run" in capsys.readouterr().err

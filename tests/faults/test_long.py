"""A long run is flat: memory, file descriptors, threads, files."""

from pathlib import Path

import pytest

from tests.faults.runs import Case

LONG_S = 900  # minutes on a machine that others use; half a one on an idle machine


@pytest.mark.slow
def test_two_thousand_steps(case: Case) -> None:
    """With 50 saves, 20 evaluations and the watchdog, on one rank."""
    run = case.start(
        "train.steps=2000",
        "train.global_batch_size=1",
        "checkpoint.every_steps=40",
        "train.eval_every=100",
        "guards.spike_score=50",
    )
    process = Path(f"/proc/{run.processes[0].pid}")

    def held() -> tuple[int, int]:
        return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))

    run.until(lambda: case.step() >= 200, LONG_S, every_s=0.1)
    early = held()
    # An idle machine makes hundreds of steps a second: there has to be time to look.
    run.until(lambda: case.step() >= 1500, LONG_S, every_s=0.1)
    late = held()
    run.finish()
    assert late[0] <= early[0] + 2  # a file that is being written just now
    assert late[1] == early[1]
    memory = {r["step"]: r["memory_gib"] for r in case.records() if "memory_gib" in r}
    assert memory[2000] < memory[200] + 0.02
    assert len(case.checkpoints()) == 2
    assert len(list((case.directory / "checkpoints").iterdir())) == 2

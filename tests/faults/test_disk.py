"""A disk that is full, broken or slow: training goes on, counts, and gives up when told to."""

import re
import weakref

import pytest

from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.train import loop, save
from tests.faults.runs import Case


@pytest.mark.parametrize(
    ("fault", "num_ranks"),
    [
        pytest.param("save.file_written:ENOSPC:times=2", 1, marks=pytest.mark.slow),
        pytest.param("save.begun:EIO", 1, marks=pytest.mark.slow),
        pytest.param("save.before_rename:EROFS", 1, marks=pytest.mark.slow),
        pytest.param("save.file_written:EIO:rank=1", 2, marks=pytest.mark.slow),
        pytest.param("save.training_written:ENOSPC", 2, marks=pytest.mark.slow),
    ],
)
def test_a_save_that_fails_is_survived(
    case: Case, fault: str, num_ranks: int, undisturbed: Case
) -> None:
    run = case.start(fault=fault, num_ranks=num_ranks)
    run.finish()
    assert "warning: step_00000002 could not be saved" in run.output
    assert case.status()["state"] == "finished"
    names = [path.name for path in (case.directory / "checkpoints").iterdir()]
    assert "step_00000006" in names
    assert not [name for name in names if name.endswith(".partial")]
    if num_ranks == 1:
        assert case.losses() == undisturbed.losses()


def count_copies() -> None:
    """Says after each copy how many tensors of copies are held; every wait is worth a warning."""
    plain, held = save.Saver._copies, [0]

    def release() -> None:
        held[0] -= 1

    def counted(self: save.Saver, pieces: save.Pieces) -> save.Pieces:
        copies = list(plain(self, pieces))
        for _, tensor in copies:
            held[0] += 1
            weakref.finalize(tensor, release)
        print(f"copies: {held[0]}", flush=True)
        return copies

    save.Saver._copies = counted  # type: ignore[method-assign]
    loop.LATE_SAVE_S = 0.0


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_disk_slower_than_the_saves_makes_training_wait(case: Case, num_ranks: int) -> None:
    """Every save in order and whole, one copy in memory at a time, and it is said."""
    every_step = ("train.steps=4", "checkpoint.every_steps=1", "checkpoint.keep_last=9")
    slow = "save.training_written:slow:seconds=3:times=99"
    run = case.start(*every_step, fault=slow, num_ranks=num_ranks, prepare=count_copies)
    run.finish()
    saved = re.findall(r"^saved .*/step_(\d+)$", run.output, re.M)
    assert [int(step) for step in saved] == [1, 2, 3, 4]
    for path in case.checkpoints():
        Checkpoint(path).verify()
    assert len(case.checkpoints()) == 4
    assert "warning: the save of step 2 waited" in run.output
    copies = [int(number) for number in re.findall(r"copies: (\d+)", run.output)]
    assert len(copies) == 8 * num_ranks  # weights, then moments, of every save
    if num_ranks == 1:
        assert copies == copies[:2] * 4
    quick = Case(case.folder / "quick")
    quick.start(*every_step, num_ranks=num_ranks).finish()
    assert case.final_files() == quick.final_files()
    assert case.losses() == quick.losses()


def test_too_many_failures_in_a_row_end_the_run(case: Case) -> None:
    run = case.start("checkpoint.max_failures=2", fault="save.begun:ENOSPC:after=1:times=9")
    run.finish(1)
    assert "error: step_00000006 could not be saved" in run.output
    status = case.status()
    assert (status["state"], status["step"]) == ("failed", 6)
    assert status["checkpoint"] == "checkpoints/step_00000002"
    assert status["retryable"]
    assert "No space left" in status["reason"]
    Checkpoint(case.checkpoints()[-1]).verify()
    case.start().finish()

"""A disk that is full, broken or slow: training goes on, counts, and gives up when told to."""

import pytest

from ndtrain.checkpoint.reader import Checkpoint
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

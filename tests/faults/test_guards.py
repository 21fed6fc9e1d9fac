"""What is not finite never reaches the weights; a hang ends with the right diagnosis."""

import json
import math
import os
import signal

import pytest

from ndtrain.checkpoint.reader import Checkpoint
from tests.faults.runs import Case

SHORT = ("guards.setup_seconds=25", "guards.step_seconds=4", "guards.save_seconds=20")


def poison_gradient_of_rank_1() -> None:
    """Its third step, one element."""
    from ndtrain.parallel.zero import ShardedAdamW

    original, calls = ShardedAdamW.step, [0]

    def step(self, lr: float, loss: float = 0.0) -> float:
        calls[0] += 1
        if os.environ.get("RANK", "1") == "1" and calls[0] == 3:
            bucket = self.buckets[0]
            bucket.gradients[bucket.members[0].offset] = math.inf
        return original(self, lr, loss)

    ShardedAdamW.step = step


def poison_loss() -> None:
    """The loss alone: its gradients are zero."""
    from ndtrain.train import step as module

    original, calls = module.batch_loss, [0]

    def batch_loss(*arguments):
        loss = original(*arguments)
        calls[0] += 1
        return loss + math.nan if calls[0] == 9 else loss

    module.batch_loss = batch_loss


def test_a_bad_gradient_of_one_rank_ends_all(case: Case) -> None:
    run = case.start("train.eval_every=0", num_ranks=2, tp=2, prepare=poison_gradient_of_rank_1)
    run.finish(3)
    assert run.output.count("error:") == 1
    assert "step 3: loss or gradient is not finite: rank 1: gradient of " in run.output
    status = case.status()
    assert (status["state"], status["retryable"]) == ("unhealthy", False)
    # The save of step 2, which was in flight or not, is whole; step 3 left no trace in it.
    assert status["checkpoint"] == "checkpoints/step_00000002"
    Checkpoint(case.checkpoints()[-1]).verify()
    dump = json.loads((case.directory / "log/nonfinite_step_00000003_rank_0001.json").read_text())
    assert [account["infinite"] for account in dump["gradients_not_finite"].values()] == [1]
    assert dump["documents"][0]
    assert dump["data"]["row"] == 8


def test_a_bad_loss_can_be_skipped(case: Case) -> None:
    run = case.start("guards.nonfinite=skip:1", "train.eval_every=0", prepare=poison_loss)
    run.finish()
    assert "step 3: loss or gradient is not finite: rank 0: loss nan" in run.output
    assert "the step is left out" in run.output
    losses = {record["step"]: record["loss"] for record in case.records() if "loss" in record}
    assert math.isnan(losses[3])
    assert all(math.isfinite(loss) for step, loss in losses.items() if step != 3)
    training = json.loads((case.checkpoints()[-1] / "training.json").read_text())
    assert (training["step"], training["num_updates"]) == (6, 5)


def test_a_stopped_rank_is_named(case: Case) -> None:
    run = case.start(*SHORT, "train.steps=100000", "train.eval_every=0", num_ranks=2, tp=2)
    run.until(lambda: case.step() >= 2)
    run.signal(1, signal.SIGSTOP)
    run.until_ended(0)
    assert run.processes[0].exitcode == 1
    assert " in call " in run.output
    assert "rank 1, stopped, " in run.output
    assert case.status()["state"] == "failed"
    assert case.status()["retryable"]
    assert "rank 1, stopped" in case.status()["reason"]
    assert "Thread" in (case.directory / "log" / "rank_0000.log").read_text()
    run.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "after", "action"),
    [(0, 40, "hang"), (0, 40, "stop"), (1, 63, "stop"), (1, 90, "hang")],  # half a minute each
)
def test_a_rank_that_never_enters_a_collective_is_named(
    case: Case, action: str, victim: int, after: int
) -> None:
    fault = f"collective:{action}:rank={victim}:after={after}"
    run = case.start(*SHORT, "train.steps=100000", num_ranks=2, tp=2, fault=fault)
    run.until_ended(1 - victim)
    report = (case.directory / "log" / "hang.txt").read_text()
    if action == "hang":
        assert f"rank {1 - victim} is in call" in report
        assert f"rank {victim}, running, has not come to it" in report
    else:  # the signal may reach the process just behind the point, inside the call
        assert f"rank {victim}, stopped, " in report
    run.kill()
    case.start("train.steps=4", num_ranks=2, tp=2).finish()

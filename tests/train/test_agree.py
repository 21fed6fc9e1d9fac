"""A failure on one rank ends the others too, with the same exit code and without a word."""

import pytest

from ndtrain.core.errors import Unhealthy, UserError
from ndtrain.runtime.runtime import start_cpu
from ndtrain.train.agree import Bystander, together
from tests.rank_pool import ranks


def outcome(rank: int, failing: int, error: UserError) -> tuple[str, int]:
    runtime = start_cpu(tp=1, dp=4, num_kv_heads=1)

    def action() -> int:
        if rank == failing:
            raise error
        return rank

    try:
        return "result", together(runtime, action, "action")
    except UserError as raised:
        return type(raised).__name__, raised.exit_code


@pytest.mark.parametrize("failing", [0, 2])
@pytest.mark.parametrize("error", [UserError("no"), Unhealthy("nan")])
def test_all_leave_when_one_fails(failing, error):
    outcomes = ranks(4).run(outcome, failing, error)
    for rank, (kind, code) in enumerate(outcomes):
        assert code == error.exit_code
        assert kind == (type(error).__name__ if rank == failing else Bystander.__name__)


def test_results_come_back_when_none_fails():
    assert ranks(4).run(outcome, -1, UserError("no")) == [("result", rank) for rank in range(4)]

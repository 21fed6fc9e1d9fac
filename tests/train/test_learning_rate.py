import math
from itertools import pairwise

import pytest

from ndtrain.config.schema import Optim
from ndtrain.train.learning_rate import learning_rate


def rates(num_steps: int, **settings) -> list[float]:
    optim = Optim(lr=1.0, **settings)
    return [learning_rate(optim, step, num_steps) for step in range(1, num_steps + 1)]


def test_warm_up_is_linear_and_ends_at_the_peak():
    assert rates(20, warmup_steps=4)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_cosine_goes_from_peak_to_the_final_ratio():
    curve = rates(104, warmup_steps=4, final_lr_ratio=0.1)
    assert curve[-1] == pytest.approx(0.1)
    assert curve[53] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert all(after < before for before, after in pairwise(curve[3:]))


def test_wsd_stays_then_decays_linearly():
    curve = rates(100, schedule="wsd", warmup_steps=10, decay_steps=20, final_lr_ratio=0.0)
    assert curve[9:80] == [1.0] * 71
    assert curve[89] == pytest.approx(0.5)
    assert curve[-1] == 0.0


def test_constant():
    assert rates(5, schedule="constant") == [1.0] * 5


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_run_that_is_all_warm_up(schedule):
    assert rates(3, schedule=schedule, warmup_steps=3)[-1] == 1.0

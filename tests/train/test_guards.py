"""Spikes, the policy for what is not finite, stragglers: verdicts from plain numbers."""

import math
import random

import pytest

from ndtrain.config.schema import Guards
from ndtrain.core.errors import Unhealthy
from ndtrain.train.guards import ENOUGH, WINDOW, LossWatch, NonFinitePolicy
from ndtrain.train.stragglers import STEPS, StragglerWatch


def noisy(number: int, level: float = 3.0, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [level + generator.gauss(0, 0.05) for _ in range(number)]


def test_noise_is_no_spike_and_a_jump_is() -> None:
    watch = LossWatch(Guards())
    for step, loss in enumerate(noisy(500)):
        assert watch.add(step, loss) == []
    (warning,) = watch.add(501, 4.5)
    assert "loss 4.5000 of step 501" in warning
    assert watch.add(502, 3.0) == []
    assert len(watch.losses) == WINDOW


def test_nothing_is_said_before_there_is_enough_to_compare_with() -> None:
    watch = LossWatch(Guards())
    for step, loss in enumerate(noisy(ENOUGH - 1)):
        assert watch.add(step, loss) == []
    assert watch.add(ENOUGH, 1e9) == []
    assert watch.add(ENOUGH + 1, 1e9) != []


def test_a_constant_loss_has_no_spikes() -> None:
    watch = LossWatch(Guards(), [2.0] * ENOUGH)
    assert watch.add(1, 2.001) == []
    assert watch.add(2, 2.5) != []


def test_spikes_in_a_row_end_the_run_and_others_do_not() -> None:
    watch = LossWatch(Guards(spike_abort=2), noisy(ENOUGH))
    watch.add(1, 9.0)
    watch.add(2, 3.0)
    watch.add(3, 9.0)
    with pytest.raises(Unhealthy, match=r"the 2\. in a row"):
        watch.add(4, 9.5)
    assert LossWatch(Guards(spike_score=None), noisy(ENOUGH)).add(1, 1e9) == []


def test_the_window_goes_on_with_the_run() -> None:
    whole = LossWatch(Guards())
    losses = noisy(50)
    for step, loss in enumerate(losses):
        whole.add(step, loss)
    half = LossWatch(Guards(), losses[:25])
    for step, loss in enumerate(losses[25:]):
        half.add(step, loss)
    assert half.losses == whole.losses
    assert half.score(5.0) == whole.score(5.0)


def test_a_skipped_loss_does_not_count() -> None:
    watch = LossWatch(Guards(), noisy(ENOUGH))
    assert watch.add(1, math.nan) == []
    assert len(watch.losses) == ENOUGH


def test_policy() -> None:
    assert not NonFinitePolicy("abort").skips()
    policy = NonFinitePolicy("skip:2")
    assert [policy.skips(), policy.skips(), policy.skips()] == [True, True, False]
    policy = NonFinitePolicy("skip:1")
    assert policy.skips()
    policy.good()
    assert policy.skips()


def test_a_slow_rank_is_named_once_it_is_slow_for_long() -> None:
    watch = StragglerWatch()
    said = [warning for _ in range(STEPS) for warning in watch.add([100, 101, 140, 99])]
    assert len(said) == 1
    assert "rank 2 is slow: 140 ms" in said[0]
    assert watch.add([100, 101, 102, 99]) == []
    assert [w for _ in range(STEPS - 1) for w in watch.add([100, 101, 140, 99])] == []
    assert [w for _ in range(3 * STEPS) for w in StragglerWatch().add([100.0])] == []

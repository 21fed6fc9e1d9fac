"""Overlap that was decided and does not happen ends the run; any that happens does not."""

import pytest

from ndtrain.core.errors import UserError
from ndtrain.train.report import CHECKED_STEPS, OverlapCheck


def test_nothing_hidden_is_an_error() -> None:
    check = OverlapCheck()
    for _ in range(CHECKED_STEPS - 1):
        check.see(10.0, 10.0)
    with pytest.raises(UserError, match="no communication hid"):
        check.see(10.0, 10.0)


def test_one_hidden_moment_is_enough_and_later_steps_are_not_judged() -> None:
    check = OverlapCheck()
    check.see(10.0, 9.5)
    for _ in range(2 * CHECKED_STEPS):
        check.see(10.0, 10.0)
    assert check._hidden_ms > 0

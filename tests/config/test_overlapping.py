"""Which configurations ask for collectives beside compute."""

import pytest

from ndtrain.config.load import load
from ndtrain.config.overlapping import OPERATIONS, forms, overlaps
from ndtrain.overlap.modes import OPERATIONS as SCHEDULED


def test_the_operations_are_those_of_the_schedules() -> None:
    assert OPERATIONS == SCHEDULED


@pytest.mark.parametrize(
    ("overrides", "dp", "expected"),
    [
        ([], 1, False),
        ([], 2, True),
        (["overlap.data_parallel='off'"], 2, False),
        (["parallel.tp=2"], 1, True),
        (["parallel.tp=2", "overlap.mode='off'"], 1, False),
        (["parallel.tp=2", "overlap.mode='off'", "overlap.o=chunk"], 1, True),
        (["parallel.tp=2", "overlap.mode=serial"], 1, False),
        (["parallel.tp=2", "overlap.mode=serial"], 2, True),
    ],
)
def test_what_overlaps(overrides: list[str], dp: int, expected: bool) -> None:
    assert overlaps(load("tiny", overrides).config, dp) is expected


def test_an_operation_s_own_form_is_named_by_its_key() -> None:
    config = load("tiny", ["overlap.mode=chunk", "overlap.qkv=ring"]).config
    assert forms(config) == {"overlap.mode": "chunk", "overlap.qkv": "ring"}

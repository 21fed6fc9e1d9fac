"""Which configurations ask for collectives beside compute."""

import pytest

from ndtrain.config.load import load
from ndtrain.config.overlapping import OPERATIONS, data_form, forms, must_hide_buckets, overlaps
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
        (["parallel.tp=2", "overlap.mode=serial"], 2, False),
        (["parallel.tp=2", "overlap.mode='off'"], 2, False),
        (["parallel.tp=2", "overlap.mode='off'", "overlap.data_parallel='on'"], 2, True),
        (["parallel.tp=2", "overlap.mode='off'", "overlap.o=auto"], 1, True),
        (["parallel.tp=2", "overlap.mode='off'", "overlap.o=serial"], 1, False),
        (["overlap.data_parallel=serial"], 2, False),
    ],
)
def test_what_overlaps(overrides: list[str], dp: int, expected: bool) -> None:
    assert overlaps(load("tiny", overrides).config, dp) is expected


@pytest.mark.parametrize(
    ("mode", "own", "expected"),
    [
        ("auto", "auto", "on"),
        ("ring", "auto", "on"),
        ("off", "auto", "off"),
        ("off", "on", "on"),
        ("auto", "off", "off"),
        ("auto", "serial", "serial"),
        ("serial", "auto", "serial"),
        ("serial", "on", "serial"),
        ("serial", "off", "off"),
    ],
)
def test_buckets_follow_the_mode_unless_they_have_their_own(mode, own, expected) -> None:
    config = load("tiny", [f"overlap.mode='{mode}'", f"overlap.data_parallel='{own}'"]).config
    assert data_form(config) == expected


@pytest.mark.parametrize(
    ("mode", "own", "dp", "expected"),
    [
        ("auto", "on", 2, True),
        ("off", "on", 2, True),
        ("auto", "on", 1, False),
        ("auto", "auto", 2, False),
        ("serial", "on", 2, False),
    ],
)
def test_buckets_must_hide_that_were_asked_to_and_may(mode, own, dp, expected) -> None:
    config = load("tiny", [f"overlap.mode='{mode}'", f"overlap.data_parallel='{own}'"]).config
    assert must_hide_buckets(config, dp) is expected


def test_an_operation_s_own_form_is_named_by_its_key() -> None:
    config = load("tiny", ["overlap.mode=chunk", "overlap.qkv=ring"]).config
    assert forms(config) == {"overlap.mode": "chunk", "overlap.qkv": "ring"}

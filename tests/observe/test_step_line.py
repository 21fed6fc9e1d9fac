"""The line of a step: the promised words, and nothing for what is unknown."""

import math

import pytest

from ndtrain.observe.step_line import clock, step_line, thousands

FULL = {
    "step": 120,
    "loss": 3.21449,
    "grad_norm": 0.812,
    "lr": 2.9e-4,
    "tokens_per_second": 41_200.0,
    "tokens_per_second_per_device": 5150.0,
    "tflops": 12.0,
    "mfu": 0.3841,
    "step_ms": 812.4,
    "data_ms": 0.1,
    "comm_ms": 96.04,
    "exposed_comm_ms": 9.0,
    "overlap_pct": 90.6,
    "memory_gib": 61.3,
    "memory_pct": 64.0,
}


def test_every_field() -> None:
    assert step_line(FULL, num_steps=1000, seconds_left=714.0) == (
        "step 120/1000 | loss 3.2145 | grad 0.81 | lr 2.9e-04 | 41.2k tok/s (5.15k/dev) | "
        "mfu 38.4% | 812 ms | comm 96.0 ms (91% hidden) | mem 61.3 GiB 64% | eta 00:11:54"
    )


def test_compute_that_communication_slows_down_says_so() -> None:
    record = FULL | {"overlap": {"step": {"compute_slowdown": 1.042}, "qkv": {}}}
    assert " | comm 96.0 ms (91% hidden, compute x1.04) | " in step_line(record, num_steps=1000)
    unknown = FULL | {"overlap": {"step": {"compute_slowdown": None}}}
    assert step_line(unknown, num_steps=1000) == step_line(FULL, num_steps=1000)


def test_unknown_fields_are_left_out() -> None:
    record = {"step": 1, "loss": 8.3, "mfu": None, "memory_gib": None, "comm_ms": None}
    assert step_line(record, num_steps=20) == "step 1/20 | loss 8.3000"


def test_one_rank_without_communication_claims_no_overlap() -> None:
    record = {"step": 1, "comm_ms": 0.0, "overlap_pct": None}
    assert step_line(record, num_steps=20) == "step 1/20 | comm 0.00 ms"


def test_an_evaluation_says_so() -> None:
    record = {"step": 0, "held_out_loss": 8.314}
    assert step_line(record, num_steps=20) == "step 0/20 | held-out loss 8.3140"


def test_a_diverged_loss_is_shown() -> None:
    assert "loss nan" in step_line({"step": 1, "loss": math.nan}, num_steps=20)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (999.4, "999"),
        (999.6, "1.00k"),
        (41_200, "41.2k"),
        (999_600, "1.00M"),
        (2.5e9, "2.50G"),
    ],
)
def test_thousands(value: float, text: str) -> None:
    assert thousands(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "00:00:00"), (59.6, "00:01:00"), (100 * 3600 + 61, "100:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text

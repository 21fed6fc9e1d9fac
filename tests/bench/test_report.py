"""The report of a measurement: figures, targets only where they were set, and no false race."""

import json
import math
from dataclasses import replace

import pytest

from ndtrain.bench.report import as_json, as_text, check_losses
from ndtrain.bench.rounds import Rounds
from ndtrain.bench.step import Measurement
from ndtrain.bench.workload import DEFAULT
from ndtrain.core.errors import Unhealthy

MIB = 2**20

MEASUREMENT = Measurement(
    workload=DEFAULT,
    num_threads=1,
    processor="Example CPU",
    torch_version="2.13.0",
    rounds=Rounds(
        step_ms={
            "ours": [1100.0, 1150.0, 1200.0],
            "dtensor": [1400.0, 1380.0, 1500.0],
            "bare": [1000.0, 1000.0, 1000.0],
            "exchange": [50.0, 60.0, 70.0],
            "transformers": [1700.0, 1600.0, 1650.0],
        },
        losses={
            "ours": 9.2,
            "dtensor": 9.20001,
            "bare": None,
            "exchange": None,
            "transformers": 9.2,
        },
    ),
    memory_bytes={"ours": 300 * MIB, "dtensor": 500 * MIB},
)

TEXT = """\
forward and backward, fp32: 2 layers, hidden 1024, intermediate 3072, heads 16/8 of 128, \
vocabulary 8192, sequence 1024, batch 1
2 ranks x 1 threads, Example CPU, torch 2.13.0

step                    median ms         quartiles   loss
ours                       1150.0   1125.0 - 1175.0   9.200000
dtensor                    1400.0   1390.0 - 1450.0   9.200010
bare                       1000.0   1000.0 - 1000.0   none: nothing is exchanged
exchange                     60.0       55.0 - 65.0   none: nothing is computed
transformers (one rank)    1650.0   1625.0 - 1675.0   9.200000

ratio in each of 3 rounds  median         quartiles   target
ours / bare                 1.150     1.125 - 1.175   <= 1.20: met
(bare + exchange) / bare    1.060     1.055 - 1.065
ours / dtensor              0.800     0.793 - 0.817   < 1.00: met
dtensor / bare              1.400     1.390 - 1.450
bare / transformers         0.606     0.597 - 0.616   <= 0.58: missed

peak resident memory of a rank in its steps, above the process before the model:
ours                        300.0 MiB
dtensor                     500.0 MiB
ours / dtensor              0.600                     <= 0.80: met"""


def with_losses(**losses: float) -> Measurement:
    rounds = replace(MEASUREMENT.rounds, losses={**MEASUREMENT.rounds.losses, **losses})
    return replace(MEASUREMENT, rounds=rounds)


def test_the_whole_text() -> None:
    assert as_text(MEASUREMENT) == TEXT


def test_another_shape_has_no_targets() -> None:
    workload = replace(DEFAULT, sequence_length=512)
    other = replace(MEASUREMENT, workload=workload)
    assert "met" not in as_text(other)
    assert "missed" not in as_text(other)
    assert all("met" not in ratio for ratio in as_json(other)["ratios"].values())


def test_memory_that_was_not_measured_is_said_to_be_so() -> None:
    measurement = replace(MEASUREMENT, memory_bytes=None)
    assert "peak memory: not measured" in as_text(measurement)
    assert as_json(measurement)["memory_ratio"] is None


def test_json_has_every_round_and_every_verdict() -> None:
    found = json.loads(json.dumps(as_json(MEASUREMENT), allow_nan=False))
    assert found["step_ms"]["ours"] == [1100.0, 1150.0, 1200.0]
    assert found["ratios"]["ours / bare"]["median"] == pytest.approx(1.15)
    assert found["ratios"]["ours / bare"]["met"] is True
    assert found["ratios"]["bare / transformers"]["met"] is False
    assert found["memory_ratio"] == {"ours / dtensor": 0.6, "target": "<= 0.80", "met": True}
    assert found["workload"]["shape"]["hidden_size"] == 1024
    assert found["losses"]["bare"] is None


def test_equal_losses_pass() -> None:
    assert check_losses(MEASUREMENT) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("loss", [9.201, math.nan])
def test_a_contestant_that_computes_something_else_is_found(loss: float) -> None:
    with pytest.raises(Unhealthy, match="do not compute the same loss") as caught:
        check_losses(with_losses(dtensor=loss))
    assert caught.value.exit_code == 3


def test_a_nan_of_the_first_contestant_is_found_too() -> None:
    with pytest.raises(Unhealthy, match="ours nan"):
        check_losses(with_losses(ours=math.nan))

"""`bench overlap --zero`: its figures from known times, its refusals, and one run of each form."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from ndtrain.bench.machine import axes_of
from ndtrain.bench.rounds import Rounds
from ndtrain.bench.workload import DEFAULT
from ndtrain.bench.zero import ZeroMeasurement, forms_of
from ndtrain.bench.zero_report import as_json, as_text, axis_efficiency
from tests.cli.conftest import Run, run

__all__ = ["run"]  # the fixture

STEP_MS = {
    "bare": 100.0,
    "exchange tensor": 40.0,
    "exchange data": 20.0,
    "exchange tensor + data": 60.0,
    "plain": 100.0,
    "blocking": 150.0,
    "beside tensor": 140.0,
    "beside data": 136.0,
    "beside": 107.0,
    "hides nothing": 160.0,
    "hides tensor": 130.0,
    "hides data": 145.0,
    "hides both": 115.0,
}
MEASUREMENT = ZeroMeasurement(
    workload=DEFAULT,
    dp=2,
    megabits=2000,
    bucket_bytes=16 * 10**6,
    num_threads=1,
    rounds=Rounds({name: [ms, ms] for name, ms in STEP_MS.items()}, {}),
    decided=["overlap: qkv forward: ring"],
)


def test_each_axis_has_its_own_efficiency() -> None:
    assert axis_efficiency(MEASUREMENT.rounds, "tensor") == pytest.approx((160 - 130) / 40)
    assert axis_efficiency(MEASUREMENT.rounds, "data") == pytest.approx((160 - 145) / 20)


def test_the_table_and_json_have_every_contestant() -> None:
    text = as_text(MEASUREMENT)
    assert "2 tensor x 2 data ranks" in text
    assert "buckets of 16 MB" in text
    assert "overlap efficiency of the tensor axis: 0.75; this machine allows 0.25" in text
    assert "overlap efficiency of the data axis: 0.75; this machine allows 0.70" in text
    assert "this machine allows (beside / plain; `ndtrain bench machine`): 1.070" in text
    assert "blocking 1.500" in text
    assert "overlap: qkv forward: ring" in text
    assert all(name in text for name in STEP_MS)
    assert as_json(MEASUREMENT)["over_bare"].keys() == STEP_MS.keys()
    assert as_json(MEASUREMENT)["overlap_efficiency"].keys() == {"tensor", "data"}


def test_goals_are_said_where_they_were_set() -> None:
    at = replace(MEASUREMENT, megabits=1000)
    assert "overlap efficiency of the tensor axis >= 0.8: missed (0.75)" in as_text(at)
    one = replace(at, workload=replace(DEFAULT, num_ranks=1, batch_size=2))
    alone = replace(one, rounds=without(one.rounds, "tensor"))
    assert "hides data / bare <= 1.12: missed (1.450)" in as_text(alone)
    other = replace(alone, workload=replace(DEFAULT, num_ranks=1, sequence_length=512))
    assert "<=" not in as_text(other)


def without(rounds: Rounds, axis: str) -> Rounds:
    return Rounds({name: ms for name, ms in rounds.step_ms.items() if axis not in name}, {})


def test_one_tensor_rank_has_only_the_data_axis() -> None:
    assert forms_of(1) == ("nothing", "data")
    assert axes_of(1) == ("data",)
    assert axes_of(2) == ("tensor", "data")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--zero",), "--zero shards over replicas"),
        (("--dp", "2"), "add --zero"),
        (("--bucket-mb", "4"), "only whole steps have buckets"),
        (("--zero", "--dp", "2", "--tp", "3"), "cannot be divided by --ranks 3"),
    ],
)
def test_what_cannot_be_measured_is_refused(run: Run, options: tuple, message: str) -> None:
    result = run("bench", "overlap", *options)
    assert result.code == 2
    assert message in result.err


@pytest.mark.slow
@pytest.mark.parametrize("tp", [1, 2])
def test_a_tiny_shape_in_every_form(tp: int) -> None:
    sizes = "--layers 1 --hidden 64 --intermediate 128 --heads 4 --kv-heads 2 --head-dim 16"
    options = f"--vocab 256 --sequence 64 --rounds 1 --tp {tp} --dp 2 --zero --bucket-mb 1 --json"
    done = subprocess.run(
        [sys.executable, "-m", "ndtrain", "bench", "overlap", *sizes.split(), *options.split()],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["tp"], found["dp"], found["bucket_megabytes"]) == (tp, 2, 1)
    exchanges = [f"exchange {axis}" for axis in axes_of(tp)]
    exchanges += ["blocking", "beside"]
    if tp > 1:
        exchanges += ["exchange tensor + data", "beside tensor", "beside data"]
    forms = [f"hides {form}" for form in forms_of(tp)]
    assert found["step_ms"].keys() == {"bare", "plain", *exchanges, *forms}
    losses = [found["losses"][form] for form in forms]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)
    assert found["losses"]["bare"] is None

"""How early a job is told to stop: from its own saves and steps, or by a default that is named."""

import json
from pathlib import Path

import pytest

from ndtrain.cluster.lead import DEFAULT_S, LEAST_S, measure_lead
from ndtrain.core.errors import UserError


def write(run: Path, *records: dict[str, float]) -> None:
    run.mkdir(exist_ok=True)
    lines = [json.dumps(record) + "\n" for record in records]
    (run / "metrics.jsonl").write_text("".join(lines))


def test_two_of_the_longest_saves_and_two_of_the_longest_steps(tmp_path: Path) -> None:
    steps = [{"step": step, "step_ms": 9e3 if step == 190 else 4e3} for step in range(1, 200)]
    steps[0]["step_ms"] = 900e3  # compiled, long ago
    write(tmp_path, *steps, {"step": 100, "save_ms": 120e3}, {"step": 199, "save_ms": 80e3})
    lead = measure_lead(tmp_path)
    assert lead.seconds == 2 * 120 + 2 * 9
    assert "2 x the longest save (120.0 s) + 2 x the longest late step (9.0 s)" in lead.reason


def test_the_steps_that_compile_do_not_count(tmp_path: Path) -> None:
    steps = [{"step": step, "step_ms": 2e3 if step > 2 else 900e3} for step in range(1, 9)]
    write(tmp_path, *steps, {"step": 8, "save_ms": 100e3})
    assert measure_lead(tmp_path).seconds == 2 * 100 + 2 * 2


@pytest.mark.parametrize("records", [[], [{"step": 1, "step_ms": 5.0}]])
def test_the_default_says_that_it_is_one(tmp_path: Path, records: list[dict]) -> None:
    if records:
        write(tmp_path, *records)
    lead = measure_lead(tmp_path)
    assert lead.seconds == DEFAULT_S
    assert lead.reason.startswith("the default")
    assert not lead.is_measured


def test_the_least_that_slurm_can_keep(tmp_path: Path) -> None:
    write(tmp_path, {"step": 1, "step_ms": 5.0}, {"step": 1, "save_ms": 20.0})
    lead = measure_lead(tmp_path)
    assert lead.seconds == LEAST_S
    assert lead.reason.startswith("the least")


def test_more_than_slurm_can_express(tmp_path: Path) -> None:
    write(tmp_path, {"step": 1, "step_ms": 5.0}, {"step": 1, "save_ms": 40e6})
    with pytest.raises(UserError, match="a stop takes 80001 s"):
        measure_lead(tmp_path)

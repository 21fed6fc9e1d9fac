"""The plan of a device that no host can measure: from the table, and stored with its source."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ndtrain.config.load import load
from ndtrain.hardware.instances import HARDWARE
from ndtrain.runtime.runtime import Runtime, start_cpu
from ndtrain.train import overlap_plan as overlap_plan_module
from ndtrain.train.build import shape_of
from ndtrain.train.hardware import find_hardware
from ndtrain.train.overlap_plan import _stored, measure_machine, overlap_plan
from tests.runtime.stand_in_neuron import StandIn
from tests.runtime.test_device_streams import lone


def plan(
    file: Path, mode: str, environment: dict[str, str], runtime: Runtime | None = None
) -> list[str]:
    """Its lines. runtime: one that traces is xla's, else it is neuron's."""
    device = "neuron" if runtime is None else "xla"
    overrides = ["parallel.tp=2", f"runtime.device={device}", f"overlap.mode={mode}"]
    config = load("qwen3_8b+pretrain", overrides).config
    notes: list[str] = []
    hardware = find_hardware(device, environment)
    shape = shape_of(config.model)
    overlap_plan(config, runtime or lone(StandIn()), shape, hardware, file, notes.append)
    return notes


@pytest.mark.parametrize("mode", ["auto", "serial"])
def test_it_is_weighed_with_the_table_and_has_no_ring(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "plan.json"
    notes = plan(file, mode, {HARDWARE: "trn2.48xlarge"})
    assert notes[0].endswith("(from the hardware table of trn2.48xlarge, not measured)")
    stored = json.loads(file.read_text())
    assert stored["source"] == "from the hardware table of trn2.48xlarge, not measured"
    assert stored["figures"]["matmul_flops"] == 667e12 / 4
    assert not stored["figures"]["issues_ahead"]
    assert {one["serial"] for one in stored["decision"]["choices"]} == {mode == "serial"}
    modes = {choice["mode"] for choice in stored["decision"]["choices"]}
    assert "ring" not in modes
    assert modes != {"off"}
    assert plan(file, mode, {}) == [f"overlap: as decided before ({file})"]


def test_in_a_traced_step_collectives_wait_for_their_operands_alone(tmp_path: Path) -> None:
    traced: Any = object()  # nothing is traced while it is decided
    runtime = replace(lone(StandIn()), trace=traced, has_permute=True)
    notes = plan(tmp_path / "plan.json", "auto", {}, runtime)
    assert "from the hardware table of trn1.32xlarge, not measured" in notes[0]
    stored = json.loads((tmp_path / "plan.json").read_text())
    assert stored["figures"]["issues_ahead"]
    assert "ring" in {choice["mode"] for choice in stored["decision"]["choices"]}


def test_an_assumed_machine_is_said(tmp_path: Path) -> None:
    (first, *_) = plan(tmp_path / "plan.json", "auto", {})
    assert "no NDTRAIN_HARDWARE names another" in first


def test_a_plan_of_before_devices_is_one_of_cpus(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"layout": {"tp": 2}, "decision": {"choices": []}}))
    assert _stored(file, {"device": "cpu", "tp": 2}, replan=False) == {"choices": []}
    assert _stored(file, {"device": "neuron", "tp": 2}, replan=False) is None


def test_rates_that_others_have_disturbed_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits_for_a_cpu(dtype: str) -> float:
        time.sleep(0.2)
        return 1e9

    monkeypatch.setattr(overlap_plan_module, "measure_matmul_peak", waits_for_a_cpu)
    machine = measure_machine(start_cpu(1, 1, 1), "fp32")
    assert machine.matmul_flops == 1e9
    assert machine.cpu_share < 0.5
    assert "% of their CPU time: MFU reads too high" in machine.source
    assert replace(machine, cpu_share=0.97).source == "measured by matmuls on all ranks at once"

"""A stand-in prints reports in the form that AWS documents; what is read, and what is refused."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ndtrain.observe.neuron_monitor import Counters, NeuronMonitor, find_monitor, parse_report
from tests.faults.runs import Case


def report(*utilizations: float, num_bytes: int = 2**30, hardware: int = 0) -> dict[str, Any]:
    """An application's part, as in the Neuron Monitor User Guide."""
    return {
        "pid": 7,
        "error": "",
        "report": {
            "neuroncore_counters": {
                "period": 1.0,
                "neuroncores_in_use": {
                    str(core): {"neuroncore_utilization": value, "flops": 1234567891011}
                    for core, value in enumerate(utilizations)
                },
                "error": "",
            },
            "memory_used": {
                "neuron_runtime_used_bytes": {"host": 5, "neuron_device": num_bytes},
                "error": "",
            },
            "execution_stats": {"error_summary": {"generic": 1, "hardware": hardware}, "error": ""},
        },
    }


def line(*applications: object) -> bytes:
    return json.dumps({"neuron_runtime_data": applications, "system_data": {}}).encode() + b"\n"


def test_a_report_is_read_over_all_applications() -> None:
    both = line(report(40, 20.5), report(30.5, num_bytes=2**31, hardware=2))
    assert parse_report(both) == Counters(pytest.approx(91 / 3), 3 * 2**30, 4)  # type: ignore[arg-type]
    assert parse_report(line()) == Counters(None, 0, 0)


def without(group: str, field: str | None = None, **values: object) -> bytes:
    application = report(40)
    if field is None:
        del application["report"][group]
    else:
        del application["report"][group][field]
        application["report"][group] |= values
    return line(application)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "Expecting"),
        (b"[]", "not a JSON object"),
        (b"{}", "without `neuron_runtime_data`"),
        (line(3), "without `report`"),
        (without("neuroncore_counters"), "without `neuroncore_counters`"),
        (without("neuroncore_counters", "neuroncores_in_use"), "without `neuroncores_in_use`"),
        (without("memory_used", "error", error="no driver"), "`memory_used`: no driver"),
        (without("execution_stats", "error_summary"), "without `error_summary`"),
        (line(report(True)), "`neuroncore_utilization` is True"),
    ],
)
def test_other_forms_are_named(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_report(text)


def device_is(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What torch-xla says of the hardware."""
    package, runtime = ModuleType("torch_xla"), ModuleType("torch_xla.runtime")
    vars(runtime)["device_type"] = lambda: kind
    vars(package)["runtime"] = runtime
    monkeypatch.setitem(sys.modules, "torch_xla", package)
    monkeypatch.setitem(sys.modules, "torch_xla.runtime", runtime)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, str], Path]:
    """Makes a neuron-monitor on the PATH that prints and then does as told."""

    def make(output: bytes, then: str) -> Path:
        path = tmp_path / "neuron-monitor"
        path.write_text(
            f"#!{sys.executable}\nimport sys, time\n"
            f"sys.stdout.buffer.write({output!r})\nsys.stdout.flush()\n{then}\n"
        )
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        device_is(monkeypatch, "NEURON")
        return path

    return make


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_counters_of_a_program_that_runs(program: Callable[[bytes, str], Path]) -> None:
    program(line(report(40, hardware=1)) + line(report(60)), "time.sleep(600)")
    notes: list[str] = []
    monitor = find_monitor("xla", notes.append)
    assert monitor is not None
    expected = {"neuron_utilization_pct": 60.0, "neuron_memory_gib": 1.0, "neuron_errors": 3}
    until(lambda: monitor.latest() == expected)
    monitor.close()  # well before the 600 s
    assert notes == []


@pytest.mark.parametrize(
    ("output", "reason"), [(b"{}\n", "a report without `neuron_runtime_data`"), (b"", "it ended")]
)
def test_what_fails_is_warned_of_once(
    program: Callable[[bytes, str], Path], output: bytes, reason: str
) -> None:
    notes: list[str] = []
    monitor = NeuronMonitor(str(program(line(report(40)) + output, "")), notes.append)
    until(lambda: monitor.latest() == {} and bool(notes))
    assert monitor.latest() == {}
    assert notes == [f"warning: no further counters of neuron-monitor: {reason}"]
    monitor.close()


def test_it_is_started_for_neuron_devices_alone(
    program: Callable[[bytes, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(b"", "")
    assert find_monitor("cpu", print) is None
    native = find_monitor("neuron", print)
    assert native is not None
    native.close()
    device_is(monkeypatch, "CPU")
    assert find_monitor("xla", print) is None
    device_is(monkeypatch, "NEURON")
    path.write_text("#!/absent/interpreter\n")
    notes: list[str] = []
    assert find_monitor("xla", notes.append) is None
    assert notes == ["warning: no counters of neuron-monitor: No such file or directory"]
    path.unlink()
    assert find_monitor("xla", print) is None


def find_stand_in(program: Path, device: str, note: Callable[[str], None]) -> NeuronMonitor:
    monitor = NeuronMonitor(str(program), note)
    until(lambda: monitor.latest() != {})
    return monitor


def give_stand_in(program: Path) -> None:
    """In the process of a rank, which has no Neuron device."""
    from ndtrain.train import worker

    worker.find_monitor = partial(find_stand_in, program)


def test_a_run_has_the_counters_in_its_metrics(
    program: Callable[[bytes, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(line(report(40)), "time.sleep(600)")
    monkeypatch.undo()  # only the file is needed: PATH is the run's own
    case = Case(tmp_path / "case")
    run = case.start("train.steps=2", "train.eval_every=0", prepare=partial(give_stand_in, path))
    run.finish()
    steps = [record for record in case.records() if "loss" in record]
    assert [record["step"] for record in steps] == [1, 2]
    for record in steps:
        assert record["neuron_utilization_pct"] == 40.0
        assert (record["neuron_memory_gib"], record["neuron_errors"]) == (1.0, 1)

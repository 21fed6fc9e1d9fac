"""What AWS's `neuron-monitor` counts on this node, beside the metrics of a step.

    monitor = find_monitor("xla", note)     # None where the program or the device is missing
    monitor.latest()                        # {"neuron_utilization_pct": 42.0, ...}
    monitor.close()

It prints a report every 5 s, a line of JSON. The form was taken from AWS's Neuron Monitor User
Guide and never seen from hardware: a report of another form is warned of once, with the name of
what differs, and ends the counters, never the run.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from threading import Thread
from typing import Any, NamedTuple

from ndtrain.observe.sinks import Record

PROGRAM = "neuron-monitor"
_ENDS_WITHIN_S = 5.0


class Counters(NamedTuple):
    """Of all Neuron applications on the node: mean over cores in use, bytes, new errors."""

    utilization_pct: float | None  # None where no core is in use
    memory_bytes: int
    num_errors: int


def parse_report(line: bytes) -> Counters:
    """One line of neuron-monitor. Raises ValueError, naming what the line does not have."""
    utilizations: list[float] = []
    memory_bytes = num_errors = 0
    for application in _field(_json_object(line), "neuron_runtime_data", list):
        report = _field(application, "report", dict)
        cores = _field(_group(report, "neuroncore_counters"), "neuroncores_in_use", dict)
        for core in cores.values():
            utilizations.append(_field(core, "neuroncore_utilization", float))
        memory = _field(_group(report, "memory_used"), "neuron_runtime_used_bytes", dict)
        memory_bytes += _field(memory, "neuron_device", int)
        errors = _field(_group(report, "execution_stats"), "error_summary", dict)
        num_errors += sum(_field(errors, kind, int) for kind in errors)
    mean = sum(utilizations) / len(utilizations) if utilizations else None
    return Counters(mean, memory_bytes, num_errors)


class NeuronMonitor:
    """A running neuron-monitor. A sink, so that it ends with the run; it writes nothing."""

    def __init__(self, program: str, note: Callable[[str], None]) -> None:
        """note: takes a warning, in the thread that calls `latest`. Raises OSError."""
        self._note = note
        self._counters: Counters | None = None
        self._num_errors = 0
        self._problem: str | None = None
        # A session of its own: Ctrl-C is for the run, which then closes this.
        self._process = subprocess.Popen(
            [program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._reader = Thread(target=self._read, name="neuron_monitor", daemon=True)
        self._reader.start()

    def latest(self) -> Record:
        """neuron_utilization_pct, neuron_memory_gib, and neuron_errors since the start.

        Empty before the first report, and after a report could not be read.
        """
        if self._problem is not None:
            self._note(f"warning: no further counters of {PROGRAM}: {self._problem}")
            self._problem = None
        counters = self._counters
        if counters is None:
            return {}
        return {
            "neuron_utilization_pct": counters.utilization_pct,
            "neuron_memory_gib": counters.memory_bytes / 2**30,
            "neuron_errors": self._num_errors,
        }

    def write(self, record: Record) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_ENDS_WITHIN_S)

    def _read(self) -> None:
        assert self._process.stdout is not None
        problem = "it ended"
        with self._process.stdout as lines:
            for line in lines:
                try:
                    counters = parse_report(line)
                except ValueError as error:
                    problem = str(error)
                    break
                self._num_errors += counters.num_errors
                self._counters = counters
        self._counters = None
        self._problem = problem


def find_monitor(device: str, note: Callable[[str], None]) -> NeuronMonitor | None:
    """Starts it for a Neuron device, where AWS's tools are installed.

    device: the configuration's `runtime.device`, which has started.
    """
    if device == "cpu" or (device == "xla" and not _drives_neuron()):
        return None
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    try:
        return NeuronMonitor(program, note)
    except OSError as error:
        note(f"warning: no counters of {PROGRAM}: {error.strerror}")
        return None


def _drives_neuron() -> bool:
    """Whether torch-xla, which has started, found a Neuron device."""
    import torch_xla.runtime

    return torch_xla.runtime.device_type() == "NEURON"


def _json_object(line: bytes) -> dict[str, Any]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("a line is not a JSON object")
    return value


def _group(report: dict[str, Any], name: str) -> dict[str, Any]:
    group = _field(report, name, dict)
    if group.get("error"):
        raise ValueError(f"`{name}`: {group['error']}")
    return group


def _field(parent: object, name: str, kind: type) -> Any:
    if not isinstance(parent, dict) or name not in parent:
        raise ValueError(f"a report without `{name}`")
    value = parent[name]
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise ValueError(f"`{name}` is {value!r}")
    return value

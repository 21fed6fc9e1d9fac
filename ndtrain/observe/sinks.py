"""Where the records of a run go: a file always, the terminal of one rank, nowhere on the others.

    sink = JsonlSink(run.metrics_file, first_step=0)
    sink.write({"step": 1, "loss": 8.31, "step_ms": 812.0})
    sink.close()
    records = read_jsonl(run.metrics_file)

A record is a dict with `step` and the metrics of that step by their names: loss, grad_norm, lr,
tokens_per_second, tokens_per_second_per_device, tflops, mfu (0 to 1), memory_gib, memory_pct,
step_ms, data_ms, comm_ms, exposed_comm_ms, overlap_pct, overlap (a map: `OVERLAP_FIGURES` in
`metrics.py`), on Neuron devices what `neuron_monitor.py` counts; `held_out_loss` alone for an
evaluation, `save_ms` alone for a save.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ndtrain.core.atomic import write_bytes
from ndtrain.core.errors import UserError

Record = Mapping[str, Any]


class Sink(Protocol):
    """Takes the records of a run as they come."""

    def write(self, record: Record) -> None:
        """Takes one record; keeps no reference to it."""

    def note(self, text: str) -> None:
        """Takes a line that is meant for a person and is no metric."""

    def close(self) -> None:
        """Nothing is written afterwards; a second call does nothing."""


class JsonlSink:
    """Appends each record as a line of JSON and hands it to the operating system at once.

    first_step: the first step that this process will run. Records of it and of later steps, left
    by a process that got further than its last checkpoint, are removed, so each step is there
    once; `repeated` is the last of them, None where nothing was removed. A line torn by a crash is
    removed too.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self.repeated: int | None = None
        if path.exists():
            records = read_jsonl(path)
            kept = [record for record in records if record["step"] < first_step]
            if len(kept) < len(records):
                self.repeated = max(record["step"] for record in records)
            write_bytes(path, b"".join(_encode(record) for record in kept))
        # Unbuffered: what was written survives the death of this process.
        self._stream = open(path, "ab", buffering=0)  # noqa: SIM115, closed by close()

    def write(self, record: Record) -> None:
        """Raises KeyError for a record without `step`: it could not be found again on resume."""
        record["step"]
        self._stream.write(_encode(record))

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        self._stream.close()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, oldest first, without a last line that a crash tore.

    Raises UserError naming the line for damage elsewhere.
    """
    *lines, _torn = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(parse_record(line))
        except (ValueError, KeyError, TypeError):
            raise UserError(
                "not a record of metrics", f"{path}:{number}", "remove the line, or the file"
            ) from None
    return records


def parse_record(line: str | bytes) -> dict[str, Any]:
    """One line of a `metrics.jsonl`. Raises ValueError, KeyError or TypeError for anything else."""
    record = json.loads(line)
    if type(record["step"]) is not int:
        raise TypeError("step is no integer")
    return {key: _decode_number(value) for key, value in record.items()}


# JSON has no number for these, and a diverged loss must be recorded as what it was.
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _encode(record: Record) -> bytes:
    values = {key: _encode_number(value) for key, value in record.items()}
    return json.dumps(values, allow_nan=False).encode() + b"\n"


def _encode_number(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _decode_number(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value

"""metrics.jsonl: readable after any crash, each step once, non-finite numbers kept."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ndtrain.core.errors import UserError
from ndtrain.observe.sinks import JsonlSink, read_jsonl


def write_steps(path: Path, steps: range) -> None:
    sink = JsonlSink(path, first_step=steps.start)
    for step in steps:
        sink.write({"step": step, "loss": 8.0 / (step + 1), "process": os.getpid()})
    sink.close()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records: list[dict[str, Any]] = [
        {"step": 0, "held_out_loss": 8.25},
        {"step": 1, "loss": 0.1, "mfu": None},
    ]
    sink = JsonlSink(path, first_step=0)
    for record in records:
        sink.write(record)
    sink.note("not a metric")
    sink.close()
    assert read_jsonl(path) == records
    assert path.read_bytes().count(b"\n") == 2


def test_each_record_is_on_the_disk_before_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    program = (
        "import os, pathlib, signal, sys\n"
        "from ndtrain.observe.sinks import JsonlSink\n"
        "sink = JsonlSink(pathlib.Path(sys.argv[1]), first_step=0)\n"
        "sink.write({'step': 0, 'loss': 1.5})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_jsonl(path) == [{"step": 0, "loss": 1.5}]


@pytest.mark.parametrize("lost_bytes", range(1, 12))
def test_a_torn_last_line_is_left_out_and_then_removed(tmp_path: Path, lost_bytes: int) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(3))
    os.truncate(path, path.stat().st_size - lost_bytes)
    assert [record["step"] for record in read_jsonl(path)] == [0, 1]
    write_steps(path, range(2, 4))
    assert [record["step"] for record in read_jsonl(path)] == [0, 1, 2, 3]


def test_steps_that_a_resumed_run_repeats_are_there_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(6))
    sink = JsonlSink(path, first_step=4)
    sink.write({"step": 4, "loss": 0.5})
    sink.close()
    records = read_jsonl(path)
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4]
    assert records[-1]["loss"] == 0.5


def test_damage_in_the_middle_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step":\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2") as caught:
        read_jsonl(path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("line", ["[1, 2]", "7", '{"loss": 1.0}'])
def test_a_line_that_is_no_record_is_damage(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:1"):
        read_jsonl(path)


def test_a_diverged_loss_is_recorded_in_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path, first_step=0)
    sink.write({"step": 0, "loss": math.nan, "grad_norm": math.inf})
    sink.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    (record,) = read_jsonl(path)
    assert math.isnan(record["loss"])
    assert record["grad_norm"] == math.inf


def test_a_record_without_a_step_is_refused(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl", first_step=0)
    with pytest.raises(KeyError, match="step"):
        sink.write({"loss": 1.0})
    sink.close()

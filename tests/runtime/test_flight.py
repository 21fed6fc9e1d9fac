"""What others can read of a rank's collectives, and what is concluded from it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from ndtrain.runtime.flight import (
    CAPACITY,
    Call,
    Flight,
    FlightFile,
    FlightRecorder,
    diagnose,
    process_state,
    read_flight,
)


def test_the_last_calls_are_in_the_file(tmp_path: Path) -> None:
    recorder = FlightRecorder()
    recorder.begin("before", "tensor", 5)
    recorder.end()
    file = FlightFile(tmp_path / "a.flight", rank=3)
    recorder.move_to(file.lane("gather"))
    for number in range(100):
        recorder.begin(f"layers.{number}.qkv.all_gather", "tensor", number)
        if number < 99:
            recorder.end()
    calls = read_flight(tmp_path / "a.flight").calls
    assert calls["main"] == calls["scatter"] == []
    last = calls["gather"]
    assert [call.sequence for call in last] == list(range(102 - CAPACITY, 102))
    assert (last[-1].name, last[-1].num_bytes) == ("layers.99.qkv.all_gather", 99)
    assert [call.is_done for call in last] == [True] * (CAPACITY - 1) + [False]


def test_it_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "a.flight"
    program = f"""
import os, signal
from pathlib import Path
from ndtrain.runtime.flight import FlightFile, FlightRecorder
recorder = FlightRecorder()
recorder.move_to(FlightFile(Path({str(path)!r}), 0).lane("main"))
recorder.begin("last", "data", 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -9
    flight = read_flight(path)
    assert [(call.name, call.is_done) for call in flight.calls["main"]] == [("last", False)]
    assert process_state(flight.process_id) == "not on this machine or dead"


def flight(*calls: tuple[int, str, bool], lane: str = "main") -> Flight:
    made = [Call(number, name, "tensor", 64, 0.0, is_done) for number, name, is_done in calls]
    return Flight(2**22 + 1, {lane: made})  # above the largest process id


def test_a_rank_that_is_behind_is_named() -> None:
    text = diagnose(
        {
            0: flight((7, "a", True), (8, "b", False)),
            1: flight((7, "a", True)),
            2: flight((7, "a", True), (8, "b", False)),
        }
    )
    assert "ranks 0, 2 are in call 8 `b` (tensor axis, 64 bytes)" in text
    assert "rank 1, not on this machine or dead, has not come to it: its last was call 7" in text


def test_a_skipped_call_is_named() -> None:
    text = diagnose(
        {
            0: flight((7, "a", True), (8, "b", True), (9, "c", False)),
            1: flight((7, "a", True), (8, "c", False)),
        }
    )
    assert "call 8 is `b` on rank 0, `c` on rank 1" in text


def test_a_rank_that_is_stopped_inside_the_call_is_named() -> None:
    running, stopped = flight((8, "b", False)), flight((8, "b", False))
    running = replace(running, process_id=os.getpid())
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        sleeper.send_signal(signal.SIGSTOP)
        while process_state(sleeper.pid) != "stopped":
            time.sleep(0.01)
        text = diagnose({0: running, 1: replace(stopped, process_id=sleeper.pid)})
    finally:
        sleeper.kill()
        sleeper.wait()
    assert "ranks 0, 1 are in call 8" in text
    assert "rank 1, stopped, is in it and does not move" in text
    assert "all ranks are in it" not in text
    assert "rank 0, " not in text


def test_when_all_are_inside_or_none() -> None:
    inside = replace(flight((8, "b", False), lane="scatter"), process_id=os.getpid())
    assert "all ranks are in it" in diagnose({0: inside, 1: inside})
    outside = flight((8, "b", True))
    assert "no rank waits" in diagnose({0: outside, 1: outside})

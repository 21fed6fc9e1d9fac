"""The watchdog's thread ends the process; each case is a process of its own."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.runtime.flight import FlightRecorder
from ndtrain.train.watchdog import Watchdog

run = RunDirectory(Path(sys.argv[1]))
(run.path / "log").mkdir(parents=True)
recorder = FlightRecorder()
world = SimpleNamespace(rank=0, ranks=(0,))
runtime = SimpleNamespace(mesh=SimpleNamespace(world=world), flights={"main": recorder})
watchdog = Watchdog(runtime, run, lambda text: print("told:", text.splitlines()[0], flush=True))
"""


def outcome(folder: Path, body: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + body, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_phase_without_progress_ends_the_process(tmp_path: Path) -> None:
    body = 'watchdog.enter("step 7", 0.5)\nrecorder.begin("qkv", "tensor", 64)\ntime.sleep(60)'
    code, out, err = outcome(tmp_path, body)
    assert (code, out) == (1, "told: no progress in `step 7` for 0.5 s\n")
    assert "`qkv` (tensor axis, 64 bytes)" in err
    assert "File" in (tmp_path / "log" / "rank_0000.log").read_text()
    assert "`qkv`" in (tmp_path / "log" / "hang.txt").read_text()


def test_progress_of_either_kind_keeps_it_quiet(tmp_path: Path) -> None:
    body = """
watchdog.enter("setup", 2.0)
for _ in range(30):                      # longer than the deadline, each call is progress
    recorder.begin("measure", "tensor", 1); recorder.end(); time.sleep(0.1)
for number in range(10):
    watchdog.enter(f"step {number}", 2.0); time.sleep(0.3)
with watchdog.phase("save", 60): time.sleep(2.5)
watchdog.rest(); time.sleep(2.5)
print("alive")
"""
    assert outcome(tmp_path, body) == (0, "alive\n", "")

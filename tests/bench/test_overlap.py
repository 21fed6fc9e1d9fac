"""`bench overlap`: its figures from known times, its refusals, and one run on a shaped link."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from ndtrain.bench import shaped_link
from ndtrain.bench.overlap import FORMS, OverlapMeasurement
from ndtrain.bench.overlap_report import as_json, as_text, overlap_efficiency
from ndtrain.bench.rounds import Rounds
from ndtrain.bench.workload import DEFAULT
from ndtrain.core.errors import UserError

STEP_MS = {
    "bare": 100.0,
    "plain": 100.0,
    "exchange": 40.0,
    "blocking": 139.0,
    "beside": 105.0,
    "dtensor": 170.0,
} | dict.fromkeys(FORMS, 140.0)
STEP_MS["auto"] = 108.0
MEASUREMENT = OverlapMeasurement(
    workload=DEFAULT,
    megabits=1000,
    num_threads=1,
    rounds=Rounds({name: [ms, ms] for name, ms in STEP_MS.items()}, {}),
    decided=["overlap: qkv forward: ring"],
)


def test_efficiency_is_what_was_hidden_of_what_could_be() -> None:
    assert overlap_efficiency(MEASUREMENT.rounds) == pytest.approx((100 + 40 - 108) / 40)


def test_the_table_judges_auto_against_bare_compute_and_dtensor() -> None:
    text = as_text(MEASUREMENT)
    assert "auto / bare <= 1.10: met (1.080)" in text
    assert "dtensor / auto >= 1.5: met (1.574)" in text
    assert "overlap: qkv forward: ring" in text
    assert "this machine allows (beside / plain; `ndtrain bench machine`): 1.050" in text
    assert "auto / best fixed form (off) <= 1.02: met (0.771)" in text
    assert "auto / exchange" not in text
    slower = replace(MEASUREMENT, megabits=2000)
    assert "auto / bare <= 1.08: met" in as_text(slower)


def test_where_the_link_is_the_bottleneck_the_transfers_are_the_measure() -> None:
    times = {"exchange": [400.0], "auto": [440.0]}
    step_ms = {name: [ms] for name, ms in STEP_MS.items()} | times
    text = as_text(replace(MEASUREMENT, megabits=100, rounds=Rounds(step_ms, {})))
    assert "auto / exchange <= 1.08: missed (1.100)" in text
    assert "auto / bare" not in text


def test_json_has_every_contestant() -> None:
    assert as_json(MEASUREMENT)["over_bare"].keys() == STEP_MS.keys()


def test_a_link_that_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaped_link.shutil, "which", lambda tool: f"/sbin/{tool}")
    monkeypatch.setattr(shaped_link.os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="not root"):
        shaped_link.require_shaping()
    monkeypatch.setattr(shaped_link.shutil, "which", lambda tool: None)
    with pytest.raises(UserError, match="`ip` is not installed"):
        shaped_link.require_shaping()

    monkeypatch.setattr(shaped_link.shutil, "which", lambda tool: f"/sbin/{tool}")
    monkeypatch.setattr(shaped_link.os, "geteuid", lambda: 0)

    def lacks(command: list[str], **_: object) -> subprocess.CompletedProcess:
        return subprocess.CompletedProcess(command, 1, "", "Operation not supported\n")

    monkeypatch.setattr(shaped_link.subprocess, "run", lacks)
    with (
        pytest.raises(UserError, match="could not be made: Operation not supported"),
        shaped_link.shaped_link(2, 1000),
    ):
        pass


def test_a_benchmark_that_is_terminated_leaves_no_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands: list[list[str]] = []

    def note(command: list[str], **_: object) -> subprocess.CompletedProcess:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(shaped_link, "require_shaping", lambda: None)
    monkeypatch.setattr(shaped_link.subprocess, "run", note)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, shaped_link.shaped_link(2, 1000):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    made, removed = (
        {command[3] for command in commands if command[:3] == ["ip", "netns", verb]}
        for verb in ("add", "del")
    )
    assert made == removed
    assert len(made) == 3
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_tiny_shape_on_a_shaped_link() -> None:
    if os.geteuid() != 0 or shutil.which("tc") is None:
        pytest.skip("network namespaces need root and iproute2")
    sizes = "--layers 1 --hidden 64 --intermediate 128 --heads 4 --kv-heads 2 --head-dim 16"
    options = "--vocab 256 --sequence 64 --rounds 2 --link-mbits 1000 --json"
    done = subprocess.run(
        [sys.executable, "-m", "ndtrain", "bench", "overlap", *sizes.split(), *options.split()],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if "kernel lacks" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["link_mbits"] == 1000
    losses = [found["losses"][name] for name in (*FORMS, "dtensor")]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)

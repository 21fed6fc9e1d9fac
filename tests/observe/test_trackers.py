"""Trackers: refused when they are not there, fed with every number, no reason to lose a run."""

import json
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ndtrain.config.schema import Config, Observe, Run
from ndtrain.core.errors import UserError
from ndtrain.observe import trackers
from ndtrain.observe.events import read_events
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.observe.trackers import TrackerSink, open_trackers, require_trackers
from tests.faults.runs import Case

RECORD = {
    "step": 3,
    "loss": 1.5,
    "mfu": None,
    "overlap": {"qkv": {"comm_ms": 2.0, "compute_slowdown": None}},
}
NUMBERS = {"loss": 1.5, "overlap/qkv/comm_ms": 2.0}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    (tmp_path / "small").mkdir()
    return RunDirectory(tmp_path / "small")


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    case.end()


def config(*names: Any) -> Config:
    return Config(run=Run(name="small"), observe=Observe(trackers=list(names), project="p"))


class Recorder:
    where = "nowhere"

    def __init__(self, fails_at: int = -1) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.is_finished = False
        self._fails_at = fails_at

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step == self._fails_at:
            raise ConnectionError("the network\nis gone")
        self.logged.append((step, dict(values)))

    def finish(self) -> None:
        self.is_finished = True


def test_what_is_not_installed_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        require_trackers(["wandb"])
    assert "pip install wandb" in caught.value.help
    require_trackers([])


def test_numbers_by_name_and_nothing_else() -> None:
    recorder, warnings = Recorder(), []
    sink = TrackerSink("x", recorder, warnings.append)
    sink.write(RECORD)
    sink.write({"step": 4, "held_out_loss": 2.0})
    sink.note("a line for people")
    sink.close()
    sink.close()
    assert recorder.logged == [(3, NUMBERS), (4, {"held_out_loss": 2.0})]
    assert recorder.is_finished
    assert not warnings


def test_one_that_fails_is_warned_of_once_and_left_alone() -> None:
    recorder, warnings = Recorder(fails_at=2), []
    sink = TrackerSink("x", recorder, warnings.append)
    for step in range(1, 5):
        sink.write({"step": step, "loss": 1.0})
    sink.close()
    assert [step for step, _ in recorder.logged] == [1]
    assert not recorder.is_finished
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: x failed")
    assert "ConnectionError: the network;" in warnings[0]


def test_one_that_does_not_start_is_refused_and_the_others_are_ended(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Recorder()

    def refuse(*_: Any) -> Recorder:
        raise OSError("no key")

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", lambda *_: first)
    monkeypatch.setitem(trackers.TRACKERS, "wandb", refuse)
    with pytest.raises(UserError, match="wandb does not start: OSError: no key"):
        open_trackers(config("tensorboard", "wandb"), run, 0, print)
    assert first.is_finished


class StandIn(types.ModuleType):
    """The part of W&B that is called."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict[str, Any]] = []
        self.offline, self.url = False, "https://wandb.example/p/small"
        self.history: list[dict[str, Any]] = []

    def Settings(self, **values: Any) -> dict[str, Any]:  # noqa: N802, W&B's name
        return values

    def init(self, **values: Any) -> "StandIn":
        self.started.append(values)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.step_metric = (name, step_metric)

    def log(self, values: dict[str, Any]) -> None:
        self.history.append(values)

    def finish(self) -> None:
        self.history.append({})


def test_wandb_goes_on_with_the_same_run(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    notes: list[str] = []
    for start in (0, 2):  # the second life runs step 3 again
        (sink,) = open_trackers(config("wandb", "wandb"), run, start, notes.append)
        sink.write(RECORD)
        sink.close()
    assert notes == [f"wandb: the metrics go to {wandb.url} too"] * 2
    identity = json.loads((run.path / "wandb.json").read_text())["id"]
    assert [values["id"] for values in wandb.started] == [identity, identity]
    assert {values["resume"] for values in wandb.started} == {"allow"}
    assert wandb.started[0]["project"] == "p"
    assert wandb.started[0]["config"]["run.name"] == "small"
    assert wandb.step_metric == ("*", "step")
    assert wandb.history == [{**NUMBERS, "step": 3}, {}] * 2


@pytest.mark.slow
def test_the_real_wandb_offline(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    notes: list[str] = []
    for start in (0, 2):
        (sink,) = open_trackers(config("wandb"), run, start, notes.append)
        sink.write(RECORD)
        sink.close()
    identity = json.loads((run.path / "wandb.json").read_text())["id"]
    files = list((run.path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(files) == 2 or len({file.stat().st_ino for file in files}) == 1
    deadline = time.monotonic() + 60  # W&B's own process writes behind ours
    while not all(b"overlap/qkv/comm_ms" in file.read_bytes() for file in files):
        assert time.monotonic() < deadline, "a life's metrics are not in its file"
        time.sleep(0.1)
    assert len(notes) == 2  # where it is, twice
    assert all(f"go to {run.path}" in line for line in notes)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


@pytest.mark.slow
def test_tensorboard_has_every_step_once_after_a_kill(case: Case) -> None:
    pytest.importorskip("tensorboard")
    asked = "observe.trackers=[tensorboard]"
    assert case.start(asked, fault="save.before_rename:kill:after=1").wait() == [-9]
    case.start(asked).finish()
    found = scalars(case.directory / "tensorboard")
    written = {r["step"]: r["loss"] for r in case.records() if "loss" in r}
    assert list(found["loss"]) == list(range(1, 7))
    assert found["loss"] == pytest.approx(written, rel=1e-6)
    assert set(found["held_out_loss"]) == {0, 4, 6}
    assert {"tokens_per_second", "grad_norm", "lr", "memory_gib"} <= set(found)


def break_tracker() -> None:
    trackers.TRACKERS["tensorboard"] = lambda *_: Recorder(fails_at=2)
    trackers.find_spec = lambda name: True  # type: ignore[assignment]


@pytest.mark.slow
def test_training_goes_on_without_a_tracker_that_fails(case: Case) -> None:
    run = case.start("observe.trackers=[tensorboard]", "train.steps=4", prepare=break_tracker)
    run.finish()
    assert run.output.count("tensorboard failed and gets nothing any more") == 1
    assert case.status()["state"] == "finished"
    assert [r["step"] for r in case.records() if "loss" in r] == [1, 2, 3, 4]


def refuse_to_start() -> None:
    def refuse(*_: Any) -> Recorder:
        raise OSError("no key")

    trackers.TRACKERS["wandb"] = refuse
    trackers.find_spec = lambda name: True  # type: ignore[assignment]


def test_a_run_whose_tracker_does_not_start_has_failed(case: Case) -> None:
    run = case.start("observe.trackers=[wandb]", num_ranks=2, prepare=refuse_to_start)
    run.finish(2)
    assert run.output.count("wandb does not start: OSError: no key") == 1
    status = case.status()
    assert (status["state"], status["retryable"]) == ("failed", False)
    assert status["reason"] == "wandb does not start: OSError: no key"
    (event,) = read_events(case.directory / "events.jsonl")
    assert event.kind == "failure"


def hide_packages() -> None:
    trackers.find_spec = lambda name: None  # type: ignore[assignment]


def test_a_run_is_refused_before_it_makes_anything(case: Case) -> None:
    run = case.start("observe.trackers=[wandb]", num_ranks=2, prepare=hide_packages)
    run.finish(2)
    assert run.output.count("which is not installed") == 1
    assert not case.directory.exists()


def test_nothing_is_imported_unless_it_is_asked_for(run: RunDirectory) -> None:
    before = set(sys.modules)
    assert open_trackers(config(), run, 0, print) == []
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not new & {"wandb", "tensorboard", "accelerate"}

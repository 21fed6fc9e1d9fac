"""The run directory: complete or absent, never overwritten, readable by the config loader."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ndtrain.config.schema import Config, Optim, Run
from ndtrain.core.errors import UserError
from ndtrain.observe import run_directory
from ndtrain.observe.run_directory import RunDirectory, Status

CONFIG = Config(run=Run(name="small", seed=7), optim=Optim(lr=1e-4, eps=1e-8))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "small")


def test_a_new_run_has_everything_it_promises(run: RunDirectory) -> None:
    run.create(CONFIG, ["optim.lr=1e-4", "run.seed=7"], {"run.seed": "the command line"})
    names = {str(path.relative_to(run.path)) for path in run.path.rglob("*")}
    assert names == {
        "config.yaml",
        "overrides.txt",
        "origins.json",
        "env.json",
        "status.json",
        "log",
        "trace",
        "checkpoints",
    }
    assert run.overrides_file.read_text() == "optim.lr=1e-4\nrun.seed=7\n"
    assert json.loads(run.origins_file.read_text()) == {"run.seed": "the command line"}
    assert json.loads(run.environment_file.read_text())["packages"]["torch"]
    assert run.status() == Status(state="running", step=0)


def test_the_written_config_is_the_same_config_with_every_key(run: RunDirectory) -> None:
    run.create(CONFIG, [], {})
    written = yaml.safe_load(run.config_file.read_text())
    assert Config.model_validate(written) == CONFIG
    assert set(written) == set(Config.model_fields)
    assert set(written["train"]) == set(type(CONFIG.train).model_fields)


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(run: RunDirectory) -> None:
    run.create(CONFIG, [], {})
    run.write_status(Status(state="finished", step=200))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="the run directory is not empty"):
        run.create(CONFIG, ["run.seed=8"], {})
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert after == before


CREATE_POINTS = (
    "create.folder_made",
    "create.begun",
    "create.folders_made",
    "create.config_written",
    "create.inputs_written",
    "create.status_written",
)


def test_the_points_are_those_of_the_code() -> None:
    text = Path(run_directory.__file__).read_text("utf-8")
    assert set(re.findall(r'reach\("(create\.\w+)"\)', text)) == set(CREATE_POINTS)


@pytest.mark.parametrize("point", CREATE_POINTS)
def test_a_kill_while_it_is_made_leaves_a_folder_that_can_be_used(
    run: RunDirectory, point: str
) -> None:
    program = (
        "import pathlib, sys\n"
        "from ndtrain.config.schema import Config\n"
        "from ndtrain.observe.run_directory import RunDirectory\n"
        "RunDirectory(pathlib.Path(sys.argv[1])).create(Config(), [], {})\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, str(run.path)],
        env={**os.environ, "NDTRAIN_FAULT": f"{point}:kill"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    if run.status() is None:
        if point != "create.folder_made":
            (run.path / ".env.json.77.abcd.tmp").touch()  # as a kill inside a write leaves it
        run.create(CONFIG, [], {})
    else:  # it was complete, and a run that goes on writes its status
        assert point == "create.status_written"
        run.write_inputs(CONFIG, [], {})
        run.write_status(Status(state="running", step=0))
    assert {path.name for path in run.path.iterdir()} == {
        *("config.yaml", "overrides.txt", "origins.json", "env.json", "status.json"),
        *("log", "trace", "checkpoints"),
    }
    assert yaml.safe_load(run.config_file.read_text())["run"]["seed"] == 7


def test_an_empty_folder_is_used(run: RunDirectory) -> None:
    run.path.mkdir(parents=True)
    run.create(CONFIG, [], {})
    assert run.status() is not None


def test_a_file_in_the_way_is_refused(run: RunDirectory) -> None:
    run.path.parent.mkdir(parents=True)
    run.path.touch()
    with pytest.raises(UserError, match="the run directory is not empty"):
        run.create(CONFIG, [], {})


def test_status_survives_the_round_trip(run: RunDirectory) -> None:
    run.path.mkdir(parents=True)
    assert run.status() is None
    status = Status(
        state="failed",
        step=41,
        checkpoint="checkpoints/step_00000040",
        reason="no space left on device",
        retryable=True,
    )
    run.write_status(status)
    assert run.status() == status
    assert set(json.loads(run.status_file.read_text())) == {
        "state",
        "step",
        "checkpoint",
        "reason",
        "retryable",
    }


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"state": "done", "step": 1}', '{"state": "running"}']
)
def test_a_damaged_status_is_named(run: RunDirectory, text: str) -> None:
    run.path.mkdir(parents=True)
    run.status_file.write_text(text)
    with pytest.raises(UserError, match=r"status\.json"):
        run.status()


def test_files_of_a_rank_sort_by_rank(run: RunDirectory) -> None:
    assert run.log_file(3) == run.path / "log" / "rank_0003.log"
    assert run.trace_file(12) == run.path / "trace" / "rank_0012.json"

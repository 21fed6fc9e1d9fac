"""The archive for a bug report: everything useful, nothing secret, nothing heavy."""

import getpass
import json
import platform
import tarfile
from pathlib import Path

import pytest
import yaml

from ndtrain.config.schema import Config, Data, Model, Run
from ndtrain.core.errors import UserError
from ndtrain.observe.bundle import MAX_LOG_BYTES, redactor_for, write_bundle
from ndtrain.observe.events import append_event
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.runtime.flight import FlightFile, FlightRecorder
from tests.observe.report.runs import make_run

PLANTED = {
    "token": "hf_PLANTEDplantedPLANTED1",
    "variable": "planted-in-a-variable-77",
    "key": "planted+key+value/9",
    "hex": "0123456789abcdef0123456789abcdef01234567",
    "user": "wilhelmina",
    "host": "trainbox-31.corp.example",
    "sibling": "trainbox-32",
    "mail": "wilhelmina@corp.example",
    "address": "10.77.3.41",
    "data": "/srv/corpora/unannounced product/*.jsonl",
    "file": "/srv/corpora/unannounced product/batch7.jsonl",
    "weights": "/home/wilhelmina/models/moonshot-v9",
    "umlaut": "/home/wilhelmina/M\u00fcller & S\u00f6hne/x.txt",
    "sample": "The quick brown planted fox",
    "weight bytes": "PLANTEDWEIGHTS",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run with each of them in every file where it could be."""
    monkeypatch.setenv("CORP_STORE_TOKEN", PLANTED["variable"])
    monkeypatch.setattr(getpass, "getuser", lambda: PLANTED["user"])
    monkeypatch.setattr(platform, "node", lambda: PLANTED["host"])
    run = make_run(tmp_path / "small", num_steps=5)
    config = Config(
        run=Run(name="small", directory=str(tmp_path)),
        data=Data(source="jsonl", paths=[PLANTED["data"], PLANTED["umlaut"]]),
        model=Model(weights=PLANTED["weights"]),
    )
    origins = {"data.paths": f"{PLANTED['weights']}/my.yaml:3"}
    run.write_inputs(config, [f"data.paths=[{PLANTED['data']}]"], origins)
    everything = ["sample", "weight bytes"]
    loud = " ".join(text for name, text in PLANTED.items() if name not in everything)
    loud = loud.replace(PLANTED["key"], f"api_key={PLANTED['key']}")
    append_event(run.events_file, 3, f"failed: {loud}")
    for name in ("rank_0000.log", "hang.txt"):
        (run.path / "log" / name).write_text(f"Traceback\n{loud}\nValueError: useful words\n")
    (run.path / "log" / "nonfinite_step_00000003_rank_0000.json").write_text(
        json.dumps({"rows": [[0, 4]], "where": loud})
    )
    checkpoint = run.checkpoints / "step_00000005"
    checkpoint.mkdir()
    (checkpoint / "rank_0000_000.safetensors").write_text(PLANTED["weight bytes"])
    (run.path / "samples.txt").write_text(PLANTED["sample"])
    (run.path / "link.txt").symlink_to(checkpoint / "rank_0000_000.safetensors")
    return run


def texts_of(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as members:
        return {
            member.name.removeprefix("ndtrain-bundle/"): members.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in members
        }


def test_nothing_that_was_planted_is_in_the_archive(run: RunDirectory, tmp_path: Path) -> None:
    destination = tmp_path / "bundle.tar.gz"
    more = {"doctor.txt": f"cache {PLANTED['weights']} on {PLANTED['host']}\n"}
    contents = write_bundle(run.path, destination, more, redactor_for(run.path))
    found = texts_of(destination)
    whole = "\n".join([*found, *found.values()])
    for name, secret in PLANTED.items():
        for form in (secret, json.dumps(secret)[1:-1]):
            assert form not in whole, name
    for fragment in (
        "unannounced",
        "moonshot",
        "wilhelmina",
        "trainbox",
        "corp.example",
        "M\u00fc",
    ):
        assert fragment not in whole, fragment
    assert str(tmp_path) not in whole
    left_out = dict(contents.left_out)
    assert set(left_out) == {"checkpoints", "trace", "samples.txt", "link.txt"}
    assert dict(contents.packed) == {name: len(text.encode()) for name, text in found.items()}


def test_what_helps_is_still_there(run: RunDirectory, tmp_path: Path) -> None:
    destination = tmp_path / "bundle.tar.gz"
    write_bundle(run.path, destination, {"doctor.txt": "ok  python\n"}, redactor_for(run.path))
    found = texts_of(destination)
    assert set(found) == {
        "config.yaml",
        "overrides.txt",
        "origins.json",
        "env.json",
        "plan.json",
        "status.json",
        "metrics.jsonl",
        "events.jsonl",
        "log/rank_0000.log",
        "log/hang.txt",
        "log/nonfinite_step_00000003_rank_0000.json",
        "checkpoints.txt",
        "collectives.txt",
        "doctor.txt",
    }
    assert found["status.json"] == run.status_file.read_text()
    assert found["metrics.jsonl"] == run.metrics_file.read_text()
    assert "ValueError: useful words" in found["log/rank_0000.log"]
    assert "rank_0000_000.safetensors" in found["checkpoints.txt"]
    config = yaml.safe_load(found["config.yaml"])
    written = yaml.safe_load(run.config_file.read_text())
    assert config["optim"] == written["optim"]
    # One folder, one name: the configuration and the log speak of the same place.
    (place,) = {path for path in config["data"]["paths"] if path.endswith(".jsonl")}
    assert place in found["log/rank_0000.log"]


def test_of_long_logs_the_end_is_packed_from_a_whole_line_on(
    run: RunDirectory, tmp_path: Path
) -> None:
    lines = [f"step {number}/99999 | loss 1.0" for number in range(30_000)]
    run.log_file(1).write_text("\n".join(lines) + "\n")
    destination = tmp_path / "bundle.tar.gz"
    write_bundle(run.path, destination, {}, redactor_for(run.path))
    packed = texts_of(destination)["log/rank_0001.log"].splitlines()
    assert packed == lines[-len(packed) :]
    assert MAX_LOG_BYTES * 0.9 < sum(map(len, packed)) < MAX_LOG_BYTES


def test_the_last_collectives_of_each_rank_as_text(run: RunDirectory, tmp_path: Path) -> None:
    recorder = FlightRecorder()
    recorder.move_to(FlightFile(run.log_file(0).with_suffix(".flight"), 0).lane("main"))
    recorder.begin("layers.0.qkv.gather", "tensor", 4096)
    recorder.end()
    recorder.begin("layers.0.o.scatter", "tensor", 128)
    run.log_file(1).with_suffix(".flight").write_bytes(b"torn")
    contents = write_bundle(run.path, tmp_path / "a", {}, redactor_for(run.path))
    text = texts_of(tmp_path / "a")["collectives.txt"]
    assert "main 1 layers.0.qkv.gather (tensor, 4,096 bytes) done" in text
    assert "main 2 layers.0.o.scatter (tensor, 128 bytes) not done" in text
    assert "rank_0001\n  not readable" in text
    assert not [name for name, _ in contents.left_out if name.endswith(".flight")]


def test_the_same_run_gives_the_same_bytes(run: RunDirectory, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_bundle(run.path, tmp_path / name, {}, redactor_for(run.path))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_damaged_files_are_redacted_as_text(run: RunDirectory, tmp_path: Path) -> None:
    run.status_file.write_text(f'{{"reason": "{PLANTED["weights"]}"')
    write_bundle(run.path, tmp_path / "a", {}, redactor_for(run.path))
    status = texts_of(tmp_path / "a")["status.json"]
    assert status.startswith('{"reason": "<path-')
    assert "moonshot" not in status


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        write_bundle(tmp_path, tmp_path / "a", {}, redactor_for(tmp_path))

"""The first run of a new user: one script, from this checkout to a model for transformers."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """What the script printed, and the run directory. The token cache is cold."""
    if sys.prefix == sys.base_prefix:
        pytest.skip("needs a virtual environment, which the script then uses")
    environment = os.environ | {
        "NDTRAIN_VENV": sys.prefix,
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
    }
    done = subprocess.run(
        [ROOT / "launch" / "quickstart"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    match = re.search(r"^run directory +(\S+)$", done.stdout, re.MULTILINE)
    assert match is not None
    yield done.stdout, Path(match[1])
    shutil.rmtree(match[1])


def test_the_held_out_loss_falls_from_evaluation_to_evaluation(quickstart) -> None:
    records = [
        json.loads(line) for line in (quickstart[1] / "metrics.jsonl").read_text().splitlines()
    ]
    held_out = {r["step"]: r["held_out_loss"] for r in records if "held_out_loss" in r}
    assert held_out[200] < held_out[100] < held_out[0]
    assert held_out[200] <= 0.65 * held_out[0]


def test_every_step_reports_loss_throughput_and_communication(quickstart) -> None:
    records = [
        json.loads(line) for line in (quickstart[1] / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 201))
    for record in steps:
        assert record["tokens_per_second"] > 0
        assert record["comm_ms"] > 0
        assert 0 <= record["exposed_comm_ms"] <= record["comm_ms"]
        assert record["mfu"] > 0


def test_the_trace_has_compute_and_communication_on_tracks_of_their_own(quickstart) -> None:
    trace = json.loads((quickstart[1] / "trace" / "merged.json").read_bytes())
    names = {
        event["args"]["name"]
        for event in trace["traceEvents"]
        if event["ph"] == "M" and event["name"] == "thread_name"
    }
    assert {"compute", "gather", "scatter"} <= names


def test_transformers_loads_the_exported_folder(quickstart) -> None:
    transformers = pytest.importorskip("transformers")
    folder = quickstart[1] / "huggingface"
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("def main(", return_tensors="pt")
    loss = model(**inputs, labels=inputs["input_ids"]).loss.item()
    assert loss < 6  # an untrained one has log(1024) = 6.9


def test_a_sample_is_printed(quickstart) -> None:
    sample = quickstart[0].partition("== a sample ==")[2].partition("== export ==")[0]
    assert len(sample.strip()) > 10


def test_what_it_says_to_try_next_runs(quickstart) -> None:
    commands = quickstart[0].rpartition("\nNext:")[2].split("\n")
    commands = [command.split() for command in commands if command.strip()]
    assert len(commands) == 2
    for command in commands:
        dry = [*command, "--dry-run"] if "train" in command else command
        done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

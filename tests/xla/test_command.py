"""`ndtrain train` with runtime.device=xla, as it is typed: trained, ended, gone on with."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.checkpoint.source import complete_checkpoints
from ndtrain.observe.sinks import read_jsonl

ROOT = Path(__file__).parents[2]
CONFIG = """
run: {{name: r, directory: {folder}}}
model: {{vocab_size: 300, hidden_size: 16, intermediate_size: 16, num_layers: 1, num_heads: 2,
        num_kv_heads: 2, head_dim: 8}}
data: {{source: text, paths: ["{folder}/text/*.txt"], sequence_length: 16,
       cache_directory: "{folder}/cache", held_out_fraction: 0.2}}
train: {{steps: 4, global_batch_size: 4, micro_batch_size: 2, eval_every: 2, eval_rows: 4,
        recompute: full}}
optim: {{lr: 0.01, schedule: constant}}
runtime: {{device: xla}}
"""


def train(config: Path, *overrides: str) -> str:
    command = [sys.executable, "-m", "ndtrain", "train", str(config), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_trains_saves_goes_on_and_says_only_what_it_knows(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for number in range(20):
        words = [f"word{(number * 7 + place) % 50}" for place in range(120)]
        (tmp_path / "text" / f"{number}.txt").write_text(" ".join(words))
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    first = train(config)
    assert "torch-xla's CPU device, which stands in for a Trainium" in first
    assert first.count("compiled the training step") == 1
    assert first.count("compiled the evaluation") == 1  # before, between and after the steps
    assert "compiled again" not in first
    then = train(config, "train.steps=6")
    assert "step 5/6" in then
    assert "step 4/6" not in then
    records = [row for row in read_jsonl(tmp_path / "r" / "metrics.jsonl") if "tflops" in row]
    assert [row["step"] for row in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["loss"] < records[0]["loss"]
    for row in records:
        assert row["comm_ms"] is row["exposed_comm_ms"] is row["overlap_pct"] is row["mfu"] is None
        assert row["overlap"] == {}
    assert [path.name for path in complete_checkpoints(tmp_path / "r")][-1] == "step_00000006"

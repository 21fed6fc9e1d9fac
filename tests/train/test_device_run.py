"""A run on a device with streams, from configuration to checkpoints, beside one on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ndtrain.checkpoint.source import complete_checkpoints
from ndtrain.observe.sinks import read_jsonl
from ndtrain.runtime.native_cache import VARIABLE

ROOT = Path(__file__).parents[2]
CONFIG = """
run: {{directory: {folder}}}
model: {{vocab_size: 300, hidden_size: 16, intermediate_size: 16, num_layers: 3, num_heads: 2,
        num_kv_heads: 2, head_dim: 8}}
data: {{source: text, paths: ["{folder}/text/*.txt"], sequence_length: 128,
       cache_directory: "{folder}/cache", held_out_fraction: 0.2}}
train: {{steps: 4, global_batch_size: 4, micro_batch_size: 2, eval_every: 2, eval_rows: 4,
        recompute: selective, offload_activations: true}}
checkpoint: {{every_steps: 2}}
optim: {{lr: 0.01, schedule: constant}}
"""


def train(module: str, config: Path, *overrides: str) -> str:
    command = [sys.executable, "-m", module, str(config), *overrides]
    cache = {VARIABLE: str(config.parent / "neff")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | cache, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_numbers_of_the_cpu_and_no_times(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for number in range(20):
        words = [f"word{(number * 7 + place) % 50}" for place in range(300)]
        (tmp_path / "text" / f"{number}.txt").write_text(" ".join(words))
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    train("ndtrain.train.worker", config, "run.name=cpu")
    device = ("runtime.device=neuron", "run.name=neuron")
    first = train("tests.train.stand_in_run", config, *device, "train.steps=2")
    assert "a stand-in" in first
    assert "mfu: of" not in first
    train("tests.train.stand_in_run", config, *device)  # goes on from its checkpoint
    plain, ours = (
        [row for row in read_jsonl(tmp_path / name / "metrics.jsonl") if "tflops" in row]
        for name in ("cpu", "neuron")
    )
    assert [row["loss"] for row in ours] == [row["loss"] for row in plain]
    assert len(ours) == 4
    for row in ours:
        assert row["comm_ms"] is row["exposed_comm_ms"] is row["overlap_pct"] is row["mfu"] is None
        assert row["overlap"] == {}
    assert [path.name for path in complete_checkpoints(tmp_path / "neuron")] == [
        path.name for path in complete_checkpoints(tmp_path / "cpu")
    ]
    layout = json.loads((tmp_path / "neuron" / "plan.json").read_text())["layout"]
    assert layout["device"] == "neuron"

    on = ("runtime.compile=true", "ops.attention=reference", "run.name=compiled")
    printed = train("tests.train.stand_in_run", config, device[0], *on)
    assert "torch.compile: norms, attention core and SwiGLU, by neuron" in printed
    compiled = [r["loss"] for r in read_jsonl(tmp_path / "compiled/metrics.jsonl") if "loss" in r]
    # fp32, another order of sums: within some ten roundings.
    assert compiled == pytest.approx([row["loss"] for row in plain], rel=2e-6)

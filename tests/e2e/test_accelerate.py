"""`accelerate launch` starts ndtrain; a parallel model trains in an Accelerator's own loop."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.apply import parallelize
from ndtrain.runtime.runtime import start_cpu
from tests.parallel.small import SHAPE

pytest.importorskip("accelerate", reason="needs accelerate")
ROOT = Path(__file__).parents[2]
LOOP = str(ROOT / "launch" / "accelerate_loop.py")
# Its launcher for several processes is named after GPUs; it starts them where there are none too.
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")


def run(*arguments: str, folder: Path) -> str:
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_an_accelerator_leaves_a_parallel_model_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator, PartialState

    with torch.device("meta"):
        model = Qwen3(SHAPE)
    parallelize(model, start_cpu(1, 1, SHAPE.num_kv_heads))
    accelerator = Accelerator(cpu=True)
    try:
        # With more than one process it would wrap any other model in DDP.
        monkeypatch.setattr(Accelerator, "multi_device", property(lambda self: True))
        assert accelerator.prepare(model) is model
    finally:
        PartialState._reset_state()


@pytest.mark.slow
def test_a_loop_on_two_ranks_gives_the_losses_of_one(tmp_path: Path) -> None:
    losses = re.findall(r"loss ([\d.]+)", run(*LAUNCH, LOOP, folder=tmp_path))
    alone = re.findall(r"loss ([\d.]+)", run(LOOP, folder=tmp_path))
    assert len(losses) == 2
    assert losses[0] == losses[1]
    # Summed in another order in fp32, and amplified by 30 steps; four digits are printed.
    assert float(losses[0]) == pytest.approx(float(alone[0]), abs=1e-3)


@pytest.mark.slow
def test_accelerate_launch_starts_a_training_run(tmp_path: Path) -> None:
    settings = "parallel.tp=2 parallel.dp=1 run.name=small train.steps=4 train.eval_every=0"
    settings += (
        " model.vocab_size=300 data.max_megabytes=0.2 data.sequence_length=64 optim.warmup_steps=1"
    )
    run(*LAUNCH, "-m", "ndtrain", "train", "quickstart", *settings.split(), folder=tmp_path)
    lines = (tmp_path / "runs" / "small" / "metrics.jsonl").read_text().splitlines()
    steps = [record["step"] for record in map(json.loads, lines) if "loss" in record]
    assert steps == [1, 2, 3, 4]

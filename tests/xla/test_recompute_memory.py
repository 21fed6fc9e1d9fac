"""The memory that XLA plans for a step on its CPU device is less with recomputation.

A process for each step, with the compiler's passes as they are by default.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.parallel.recompute import Recompute

ROOT = Path(__file__).parents[2]
# Activations are large, weights small: the backward of 4 layers, without the optimizer.
STEP = """
import sys
from dataclasses import replace
import torch
from ndtrain.parallel.zero_hlo import TracedStep, narrow
from ndtrain.runtime.xla import trace_xla
from tests.xla.small_run import SHAPE

runtime = trace_xla(0, 1, 1, SHAPE.num_kv_heads)
shape = replace(narrow(SHAPE, 1), num_layers=4, hidden_size=32, intermediate_size=96)
step = TracedStep.of(shape, runtime, False, recomputed=sys.argv[1])
tokens_BS = torch.zeros(8, 128, dtype=torch.int64, device=runtime.device)
weights_BS = torch.ones(8, 128, device=runtime.device)
runtime.trace.run("the initial state", print)
step.optimizer.begin()
step.optimizer.traffic.arm()
loss = step.model.loss(tokens_BS, tokens_BS, weights_BS)
loss.backward()
runtime.trace.run("the step", print)
"""


def planned_bytes(recomputed: Recompute, folder: Path) -> int:
    """Of everything between arguments and results."""
    flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STEP, recomputed]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    plans = [path.read_text() for path in folder.glob("*buffer-assignment.txt")]
    return max(
        int(size) for plan in plans for size in re.findall(r"size (\d+), preallocated-temp", plan)
    )


@pytest.mark.slow
def test_recomputation_saves_memory(tmp_path: Path) -> None:
    modes: tuple[Recompute, ...] = ("none", "selective", "full")
    none, selective, full = (planned_bytes(mode, tmp_path / mode) for mode in modes)
    assert full < selective < none
    assert full < 0.6 * none

"""Ranks whose group another library has made, of the backend xla, as neuronx-distributed does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

ROOT = Path(__file__).parents[2]
RANK = """
import torch
import torch.distributed as dist
import torch_xla.distributed.xla_backend
from ndtrain.runtime.start_xla import start_xla

dist.init_process_group("xla")
theirs = dist.new_group([0, 1])  # as its parallel state has one for tensor parallelism
runtime = start_xla(tp=2, dp=1, num_kv_heads=2)
tensor = runtime.mesh.tensor
own = torch.tensor([1.0 + tensor.rank])
for x in (own, own.to(runtime.device)):
    gathered = runtime.collectives.all_gather(x, tensor, "check").cpu().tolist()
    assert gathered == [1.0, 2.0], gathered
assert dist.get_backend() == dist.get_backend(theirs) == "xla"
print("fits", flush=True)
dist.destroy_process_group()
"""


def test_the_runtime_starts_beside_it(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK, "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "rank.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PJRT_DEVICE": "CPU", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("fits") == 2

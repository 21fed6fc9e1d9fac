"""`ndtrain train` with runtime.compile=true as a user types it, beside the same run without."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile: no C++ compiler"
    ),
]
COMMAND = ("-m", "ndtrain", "train", "quickstart", "train.steps=4", "optim.warmup_steps=0")


def train(folder: Path, name: str, *overrides: str) -> tuple[list[float], str]:
    """Losses, of steps and then of evaluations, and what was printed."""
    own = ("data.max_megabytes=0.5", f"run.directory={folder}", f"run.name={name}")
    done = subprocess.run(
        [sys.executable, *COMMAND, *own, *overrides],
        env=os.environ
        | {"XDG_CACHE_HOME": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    found = [
        record[key] for key in ("loss", "held_out_loss") for record in records if key in record
    ]
    return found, done.stdout


def test_two_ranks_train_compiled_and_have_the_eager_curve(tmp_path: Path) -> None:
    eager, _ = train(tmp_path, "eager")
    compiled, printed = train(tmp_path, "compiled", "runtime.compile=true")
    assert "torch.compile: norms, attention core and SwiGLU, by inductor" in printed
    assert "compiled the training step in " in printed
    assert "(miss: it was not there; " in printed
    assert len(compiled) == len(eager) == 4 + 2
    # Losses of about 7 in fp32 from another order of sums: within some ten roundings of each.
    assert compiled == pytest.approx(eager, rel=1e-6)

"""Training in a process where neuronx-distributed has a parallel state of its own, and uses it.

Run with NDTRAIN_NXD naming a checkout at commit fbac34901a4a1b6ccfbc8cbc4f0be2bdfb8e0b44 (release
2.29); skipped without. See nxd_checkout.py for what stands in.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from tests.rank_pool import ranks
from tests.xla.nxd_checkout import checkout
from tests.xla.small_run import train_rank

ROOT = Path(__file__).parents[2]


def test_neither_disturbs_the_other_in_either_order() -> None:
    """The curve has the bits that it has alone, and NxD's groups are those that it made."""
    checkout()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(ROOT / "tests/xla/beside_nxd.py")],
        env=os.environ | {"PJRT_DEVICE": "CPU", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    alone = ranks(2).run(train_rank, 2, 1, "off", 2)[0]
    line = " ".join(["losses", *(loss.hex() for loss in alone.losses)])
    assert done.stdout.count(line) == 2, (done.stdout[-2000:], line)

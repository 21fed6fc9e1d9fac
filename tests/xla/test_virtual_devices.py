"""Schedules recorded by the traced executor, with real XLA collectives between four devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.overlap.collective_matmul import MODES
from tests.overlap.cases import BATCH, IN, OPERATIONS, OUT, SEQUENCE
from tests.xla.virtual_devices import DTYPE, SIZE

ROOT = Path(__file__).parents[2]


def test_one_program_has_on_every_device_the_numbers_of_the_definition() -> None:
    """Error of a sum of n products and of t parts (Higham 2002, section 3.1): n u and t u.

    A collective that moved nothing would be wrong by as much as the result.
    """
    environment = {**os.environ, "CPU_NUM_DEVICES": str(SIZE), "TF_CPP_MIN_LOG_LEVEL": "3"}
    del environment["XLA_IR_DEBUG"], environment["XLA_HLO_DEBUG"]
    command = [sys.executable, "-m", "tests.xla.virtual_devices"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    found = {(operation, mode): float(error) for operation, mode, error in rows}
    assert found.keys() == {(operation, mode) for operation in OPERATIONS for mode in MODES}
    num_sums = max(IN, OUT, SEQUENCE * BATCH) + SIZE
    assert max(found.values()) <= num_sums * torch.finfo(DTYPE).eps / 2

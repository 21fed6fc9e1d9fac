"""Real torch-xla on its CPU device; graphs keep the names of scopes, and compile fast.

torch-xla and XLA read their variables when they are imported, so they are set before any test
imports them; processes that tests start inherit them.
"""

import importlib.util
import os

import pytest

HAS_TORCH_XLA = importlib.util.find_spec("torch_xla") is not None
if HAS_TORCH_XLA:
    os.environ |= {
        "PJRT_DEVICE": "CPU",
        "XLA_IR_DEBUG": "1",
        "XLA_HLO_DEBUG": "1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }


@pytest.fixture(scope="session", autouse=True)
def device_before_any_backward() -> None:
    """Autograd counts the devices when it first runs: one that comes later has no queue."""
    if HAS_TORCH_XLA:
        import torch_xla

        torch_xla.device()

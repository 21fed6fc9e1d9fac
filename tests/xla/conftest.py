"""Real torch-xla on its CPU device; graphs keep the names of scopes.

torch-xla reads its variables when it is imported, so they are set before any test imports it.
"""

import importlib.util
import os

if importlib.util.find_spec("torch_xla") is not None:
    os.environ |= {"PJRT_DEVICE": "CPU", "XLA_IR_DEBUG": "1", "XLA_HLO_DEBUG": "1"}

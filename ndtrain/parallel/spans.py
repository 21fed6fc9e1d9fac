"""Compute spans of the modules that compute locally: norms, attention core, SwiGLU.

The parallel linears, embedding and head record their own products. A span costs a few microseconds;
without these, communication that hides behind attention would count as exposed.
"""

import time
from typing import Any

from torch import nn

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.local_modules import local_modules
from ndtrain.runtime.runtime import Runtime


def record_local_modules(model: Qwen3, runtime: Runtime) -> None:
    """Adds hooks for forward and backward of each local module."""
    for name, module in local_modules(model):
        _record(module, name, runtime)


def _record(module: nn.Module, name: str, runtime: Runtime) -> None:
    started: list[int] = []  # a stack: backward under checkpointing runs forward inside

    def start(*_: Any) -> None:
        started.append(time.perf_counter_ns())

    def stop(label: str) -> None:
        runtime.spans.add(label, "compute", started.pop(), time.perf_counter_ns())

    module.register_forward_pre_hook(start)
    module.register_forward_hook(lambda *_: stop(name))
    module.register_full_backward_pre_hook(start)
    module.register_full_backward_hook(lambda *_: stop(f"{name}.backward"))

"""torch.compile of the local modules; schedules, collectives and hooks stay outside of its graphs.

    compile_local_modules(model, "inductor")     # after `parallelize`, before `recompute`

`forward` is compiled, not the call: hooks wait for ZeRO's buckets and record spans around it. Each
region is one graph (`fullgraph`) of fixed shapes, shared by the layers; gradients off is another. A
shape too many ends the run: PyTorch's limit is 8 graphs of a function.

The ops are written so that backward keeps no more than that of the eager ones; a backend that moves
work between the two halves, as inductor does, may keep more.
"""

import torch

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.local_modules import local_modules


def compile_local_modules(model: Qwen3, backend: str) -> None:
    """Changes `forward` of the local modules in place; nothing is compiled before it runs.

    backend: of torch.compile, see `runtime/compiler.py`.
    """
    for _, module in local_modules(model):
        module.forward = torch.compile(
            module.forward, backend=backend, fullgraph=True, dynamic=False
        )

"""`step.train_step` on a device that traces: one graph, and one look at its results.

result = traced_step(model, optimizer, micro_batches, num_targets, lr, runtime, note)
"""

import math
from collections.abc import Callable, Sequence

import torch

from ndtrain.data.batch import Batch
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.zero import not_finite
from ndtrain.parallel.zero_traced import TracedAdamW
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.step import StepResult, batch_loss

NAME = "the training step"


def traced_step(
    model: Qwen3,
    optimizer: TracedAdamW,
    micro_batches: Sequence[Batch],
    num_targets: int,
    lr: float,
    runtime: Runtime,
    note: Callable[[str], None],
) -> StepResult:
    """note: is told while a graph compiles. Collective over the mesh.

    What is not finite is refused on all ranks, and changes nothing.
    """
    assert runtime.trace is not None
    losses = []
    optimizer.begin()
    for index, batch in enumerate(micro_batches):
        if index == len(micro_batches) - 1:
            optimizer.traffic.arm()
        micro_loss = batch_loss(model, batch, num_targets, runtime)
        micro_loss.backward()
        losses.append(micro_loss.detach().reshape(1))
    total = torch.cat(losses)
    norm = optimizer.record(torch.tensor(lr).to(runtime.device), total)
    results = torch.cat([total, norm])
    runtime.trace.run(NAME, note)
    *values, grad_norm = results.tolist()
    if math.isfinite(grad_norm):
        return StepResult(tuple(values), grad_norm)
    return StepResult(tuple(values), math.nan, not_finite(grad_norm))

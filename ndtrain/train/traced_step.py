"""`step.train_step` on a device that traces: one graph, and one look at its results.

result = traced_step(model, optimizer, micro_batches, num_targets, lr, runtime, note)

Gradients only add up, so nothing would keep a compiler from running all forwards first, and holding
the activations of all micro-batches at once. Each one's layers therefore wait for the gradients of
the one before: the step needs the memory of one, however many there are. Nothing of a forward hides
behind the backward before it; its collectives came behind that one's anyway.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, autograd

from ndtrain.data.batch import Batch
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.zero import device_rate, not_finite
from ndtrain.parallel.zero_traced import TracedAdamW
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.traced import Trace
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
        with _layers_after(optimizer.late_gradients() if index else [], model, runtime.trace):
            micro_loss = batch_loss(model, batch, num_targets, runtime)
        micro_loss.backward()
        losses.append(micro_loss.detach().reshape(1))
    total = torch.cat(losses)
    norm = optimizer.record(device_rate(lr, runtime.device), total)
    results = torch.cat([total, norm])
    runtime.trace.run(NAME, note)
    *values, grad_norm = results.tolist()
    if math.isfinite(grad_norm):
        return StepResult(tuple(values), grad_norm)
    return StepResult(tuple(values), math.nan, not_finite(grad_norm))


@contextmanager
def _layers_after(gradients: Sequence[Tensor], model: Qwen3, trace: Trace) -> Iterator[None]:
    """Inside, what comes out of the embedding waits for the gradients.

    Nothing refers to them afterwards: what is referred to is a result of the graph.
    """

    def hook(module: Any, inputs: Any, x: Tensor) -> Tensor:
        return _After.apply(x, trace, gradients) if gradients else x

    handle = model.embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _After(autograd.Function):
    """x, which waits; its gradient does not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, trace: Trace, after: Sequence[Tensor]) -> Tensor:
        return trace.tie(x, after)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None, None]:
        return dx, None, None

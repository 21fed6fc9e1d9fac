"""One optimizer step: micro-batches forward and backward, then the update.

    result = train_step(model, optimizer, micro_batches, num_targets, lr, runtime)

The loss is the mean over the counted tokens of the whole global batch, whatever the layout: each
micro-batch is weighted by 1 / num_targets, so sums over micro-batches and ranks are that mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ndtrain.core.errors import Unhealthy
from ndtrain.data.batch import Batch
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.runtime.runtime import Runtime


@dataclass(frozen=True, slots=True)
class StepResult:
    """losses: of the micro-batches, parts of the mean: their sum over the data axis is the loss.
    grad_norm: global, before clipping. refusal: why the weights were left as they were.
    """

    losses: tuple[float, ...]
    grad_norm: float
    refusal: Unhealthy | None = None

    @property
    def loss(self) -> float:
        return sum(self.losses)


def batch_loss(model: Qwen3, batch: Batch, num_targets: int, runtime: Runtime) -> Tensor:
    """Sum of the batch's token losses / num_targets; the same scalar on every tensor rank."""
    tokens, targets = (
        torch.from_numpy(array).to(runtime.device) for array in (batch.tokens_BS, batch.targets_BS)
    )
    positions = torch.from_numpy(batch.positions_BS)  # the tables are made on the host, in fp64
    starts = None
    if batch.starts_BS is not None:
        starts = torch.from_numpy(batch.starts_BS).to(runtime.device)
    # Filled on the host: in a traced step a number that changes must be data, or it is compiled in.
    weights = torch.full(targets.shape, 1.0 / num_targets).to(runtime.device)
    return model.loss(tokens, targets, weights, positions, starts)


def train_step(
    model: Qwen3,
    optimizer: ShardedAdamW,
    micro_batches: Sequence[Batch],
    num_targets: int,
    lr: float,
    runtime: Runtime,
) -> StepResult:
    """Collective over the mesh. What is not finite is refused on all ranks, and changes nothing."""
    parts = []
    for index, batch in enumerate(micro_batches):
        if index == len(micro_batches) - 1:
            optimizer.traffic.arm()
        with runtime.spans.span("forward", "host"):
            micro_loss = batch_loss(model, batch, num_targets, runtime)
        with runtime.spans.span("backward", "host"):
            micro_loss.backward()
        parts.append(micro_loss.detach())
    losses = [part.item() for part in parts]  # a device that is behind its host is waited for here
    with runtime.spans.span("optimizer", "host"):
        try:
            grad_norm, refusal = optimizer.step(lr, sum(losses)), None
        except Unhealthy as error:
            grad_norm, refusal = math.nan, error
    return StepResult(tuple(losses), grad_norm, refusal)

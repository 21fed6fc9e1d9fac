"""A short training run on either runtime, in this process or as a rank of a pool."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from ndtrain.config.schema import Optim
from ndtrain.data.batch import Batch
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.overlap.modes import Modes
from ndtrain.parallel.apply import Source, parallelize
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.recompute import Recompute, recompute
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.parallel.zero_traced import TracedAdamW
from ndtrain.runtime.runtime import Runtime, start_cpu
from ndtrain.train.step import StepResult, train_step
from ndtrain.train.traced_step import traced_step
from tests.parallel import small

SHAPE = replace(small.SHAPE, num_layers=1)  # compiles in seconds
SEQUENCE, BATCH = 16, 4
LEARNING_RATE = 1e-2
# Large, so that AdamW does not divide the rounding of a gradient that should be zero by itself.
OPTIM = Optim(lr=LEARNING_RATE, eps=1e-3)


class Small(NamedTuple):
    runtime: Runtime
    model: Qwen3
    optimizer: ShardedAdamW


class Curve(NamedTuple):
    losses: list[float]  # over the data axis
    norms: list[float]
    notes: list[str]
    num_compilations: list[int]  # of the process, after each step


def start(
    runtime: Runtime,
    mode: str = "off",
    dtype: torch.dtype = torch.float32,
    source: Source | None = None,
    recomputed: Recompute = "none",
) -> Small:
    """source: of the weights, by default random ones, the same on every runtime."""
    with torch.device("meta"):
        model = Qwen3(SHAPE, "reference")
    shards = parallelize(model, runtime, Modes.all(mode))  # type: ignore[arg-type]
    make = ShardedAdamW if runtime.trace is None else TracedAdamW
    source = source or RandomWeights(SHAPE, seed=3)
    bucket_bytes = 40_000  # two of matrices
    in_background = mode != "off"
    optimizer = make(model, shards, source, runtime, OPTIM, dtype, bucket_bytes, in_background)
    recompute(model, recomputed, runtime.trace)
    return Small(runtime, model, optimizer)


def batches(step: int, rank: int, num_ranks: int) -> list[Batch]:
    """This data-parallel rank's micro-batches: one text, another number of targets each step."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, SHAPE.vocab_size, (BATCH, SEQUENCE + 1))
    targets = tokens[:, 1:].copy()
    targets[0, : 1 + step % 5] = -100
    starts = np.zeros((BATCH, SEQUENCE), dtype=np.int32)
    starts[1, 6:] = 6
    positions = np.arange(SEQUENCE) - starts
    rows = np.array_split(np.arange(BATCH), num_ranks)[rank]
    return [
        Batch(tokens[part, :-1], targets[part], positions[part], starts[part])
        for part in np.array_split(rows, 2)
    ]


def num_targets(step: int) -> int:
    return BATCH * SEQUENCE - 1 - step % 5


def step_of(small: Small, step: int, lr: float, note: Callable[[str], None]) -> StepResult:
    runtime, model, optimizer = small
    data = runtime.mesh.data
    parts, count = batches(step, data.rank, data.size), num_targets(step)
    if isinstance(optimizer, TracedAdamW):
        return traced_step(model, optimizer, parts, count, lr, runtime, note)
    return train_step(model, optimizer, parts, count, lr, runtime)


def train(small: Small, num_steps: int) -> Curve:
    """The learning rate falls, so that nothing but shapes is the same in every step."""
    curve = Curve([], [], [], [])
    data = small.runtime.mesh.data
    for step in range(num_steps):
        lr = LEARNING_RATE * 0.97**step
        result = step_of(small, step, lr, curve.notes.append)
        own = torch.tensor([result.loss], dtype=torch.float64)
        total = small.runtime.collectives.all_reduce(own, data, "loss")
        curve.losses.append(total.item())
        curve.norms.append(result.grad_norm)
        trace = small.runtime.trace
        curve.num_compilations.append(trace.num_compilations() if trace else 0)  # type: ignore[attr-defined]
    return curve


def train_on_cpu(num_steps: int, dtype: torch.dtype) -> Curve:
    return train(start(start_cpu(1, 1, SHAPE.num_kv_heads), dtype=dtype), num_steps)


def train_rank(
    rank: int, tp: int, dp: int, mode: str, num_steps: int, recomputed: Recompute = "none"
) -> Curve:
    """A rank of a pool, on torch-xla's CPU device; names in graphs would only cost time."""
    for name in ("XLA_IR_DEBUG", "XLA_HLO_DEBUG"):
        os.environ.pop(name, None)
    from ndtrain.runtime.start_xla import start_xla

    runtime = start_xla(tp, dp, SHAPE.num_kv_heads)
    return train(start(runtime, mode, recomputed=recomputed), num_steps)

"""Small shapes and a short training run that the tests of this folder share."""

from dataclasses import replace

import torch
from torch import Tensor

from ndtrain.config.schema import Optim
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.models.qwen3.shape import Shape
from ndtrain.overlap.modes import BLOCKING, Modes
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.recompute import recompute
from ndtrain.parallel.shard import Shard
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.runtime.runtime import Runtime, start_cpu

SHAPE = Shape(
    vocab_size=96,
    hidden_size=48,
    intermediate_size=80,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    rope_theta=1e4,
    rms_norm_eps=1e-6,
    tie_embeddings=True,
    qk_norm=True,
    max_positions=64,
)
UNTIED = replace(SHAPE, tie_embeddings=False)
LLAMA = replace(SHAPE, tie_embeddings=False, qk_norm=False)
SEQUENCE, BATCH = 16, 4


def start(
    shape: Shape,
    tp: int,
    dp: int,
    dtype: torch.dtype = torch.float32,
    mode: str = "none",
    in_background: bool = False,
    modes: Modes = BLOCKING,
    runtime: Runtime | None = None,
    serial: bool = False,
) -> tuple[Runtime, Qwen3, ShardedAdamW, dict[str, Shard]]:
    """runtime: None starts one. serial: of the buckets."""
    runtime = runtime or start_cpu(tp, dp, shape.num_kv_heads)
    with torch.device("meta"):
        model = Qwen3(shape)
    shards = parallelize(model, runtime, modes)
    source = RandomWeights(shape, seed=3)
    bucket_bytes = 20_000  # several buckets, one layer in two of them
    optimizer = ShardedAdamW(
        model, shards, source, runtime, Optim(lr=1e-2), dtype, bucket_bytes, in_background, serial
    )
    recompute(model, mode)  # type: ignore[arg-type]
    return runtime, model, optimizer, shards


def batch(step: int, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets (some ignored) and document starts of a global batch."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(shape.vocab_size, (BATCH, SEQUENCE + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    targets[0, :3] = -100
    starts = torch.zeros(BATCH, SEQUENCE, dtype=torch.int32)
    starts[1, 6:] = 6
    return tokens[:, :-1], targets, starts


def loss_of(
    model: Qwen3,
    runtime: Runtime,
    step: int,
    num_micro_batches: int = 1,
    optimizer: ShardedAdamW | None = None,
) -> float:
    """Forward and backward of this rank's rows; returns its part of the mean loss."""
    tokens, targets, starts = batch(step, model.shape)
    data = runtime.mesh.data
    count = int((targets != -100).sum())
    total = 0.0
    rows = torch.arange(BATCH).chunk(data.size)[data.rank]
    for index, part in enumerate(rows.chunk(num_micro_batches)):
        if optimizer is not None and index == num_micro_batches - 1:
            optimizer.traffic.arm()
        weights = torch.full(targets[part].shape, 1 / count)
        positions = torch.arange(SEQUENCE) - starts[part]
        loss = model.loss(tokens[part], targets[part], weights, positions, starts[part])
        loss.backward()
        total += loss.item()
    return total


def train(
    rank: int,
    shape: Shape,
    tp: int,
    dp: int,
    num_steps: int,
    mode: str = "none",
    dtype: torch.dtype = torch.float32,
    num_micro_batches: int = 1,
    in_background: bool = False,
    modes: Modes = BLOCKING,
    serial: bool = False,
) -> dict:
    """Trains; returns the curve, gradient norms and the parameters held on this rank."""
    runtime, model, optimizer, shards = start(
        shape, tp, dp, dtype, mode, in_background, modes, serial=serial
    )
    losses, norms = [], []
    for step in range(num_steps):
        own = loss_of(model, runtime, step, num_micro_batches, optimizer)
        norms.append(optimizer.step(1e-2))
        total = torch.tensor([own], dtype=torch.float64)
        losses.append(runtime.collectives.all_reduce(total, runtime.mesh.data, "loss").item())
    optimizer.traffic.finish()
    parameters = {name: value.detach().clone() for name, value in model.named_parameters()}
    slices = {name: shard.slices for name, shard in shards.items()}
    return {"losses": losses, "norms": norms, "parameters": parameters, "slices": slices}

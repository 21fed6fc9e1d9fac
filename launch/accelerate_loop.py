"""A parallel Qwen3 in an Accelerator's loop.

accelerate launch --multi_gpu --num_processes 2 accelerate_loop.py   # also where there are no GPUs
"""

import torch
from accelerate import Accelerator

from ndtrain.config.schema import Optim
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.models.qwen3.shape import Shape
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.runtime.runtime import start_cpu

SHAPE = Shape(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
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
SEQUENCE, BATCH, LEARNING_RATE = 32, 4, 1e-2


def train(num_steps: int) -> list[float]:
    accelerator = Accelerator(cpu=True)
    runtime = start_cpu(tp=accelerator.num_processes, dp=1, num_kv_heads=SHAPE.num_kv_heads)
    with torch.device("meta"):
        model = Qwen3(SHAPE)
    shards = parallelize(model, runtime)
    weights = RandomWeights(SHAPE, seed=0)
    optimizer = ShardedAdamW(model, shards, weights, runtime, Optim(), torch.float32)
    # Registered with the accelerator and left as it is: its gradients are summed already.
    model, optimizer = accelerator.prepare(model, optimizer)
    tokens_BS = torch.arange(SEQUENCE + 1).repeat(BATCH, 1) + torch.arange(BATCH)[:, None]
    inputs, targets = tokens_BS[:, :-1], tokens_BS[:, 1:]
    positions = torch.arange(SEQUENCE).expand(BATCH, -1)
    mean = torch.full(targets.shape, 1 / targets.numel())
    losses = []
    for _ in range(num_steps):
        loss = model.loss(inputs, targets, mean, positions, None)
        accelerator.backward(loss)
        optimizer.step(LEARNING_RATE)
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(f"loss {train(30)[-1]:.4f}")
    if torch.distributed.is_initialized():  # not by an accelerator of one process
        torch.distributed.destroy_process_group()

"""Overlapped tensor parallelism in a loop of your own: torchrun --nproc-per-node 2 own_loop.py"""

import torch
import torch.distributed as dist

from ndtrain.parallel.functional import all_gather_matmul, matmul_reduce_scatter
from ndtrain.runtime.runtime import start_cpu

SEQUENCE, BATCH, HIDDEN, INNER = 64, 4, 32, 128


def train(num_steps: int) -> list[float]:
    tp = dist.get_world_size()
    runtime = start_cpu(tp, dp=1, num_kv_heads=tp)
    torch.manual_seed(runtime.mesh.tensor.rank)  # each rank has its own part of everything
    up = torch.nn.Parameter(torch.randn(INNER // tp, HIDDEN) / HIDDEN**0.5)
    down = torch.nn.Parameter(torch.randn(HIDDEN, INNER // tp) / INNER**0.5)
    optimizer = torch.optim.AdamW([up, down], lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(num_steps):
        x = torch.randn(SEQUENCE // tp, BATCH, HIDDEN)
        hidden = torch.relu(all_gather_matmul(x, up, runtime))
        y = matmul_reduce_scatter(hidden, down, runtime)
        loss = (y - x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    dist.init_process_group("gloo")
    print(f"rank {dist.get_rank()}: loss of own rows {train(200)[-1]:.4f}")
    dist.destroy_process_group()

"""The tensors of a workload that all contestants share."""

import torch
from torch import Tensor

from ndtrain.bench.workload import Workload


def make_batch(workload: Workload) -> tuple[Tensor, Tensor]:
    """Tokens and targets (the tokens that follow), each [B, S]: the same on every rank."""
    generator = torch.Generator().manual_seed(workload.seed)
    size = (workload.batch_size, workload.sequence_length + 1)
    tokens = torch.randint(workload.shape.vocab_size, size, generator=generator)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

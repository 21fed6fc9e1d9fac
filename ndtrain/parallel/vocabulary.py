"""Embedding and output head with the vocabulary sharded by rows over the tensor ranks.

The embedding looks up the rows held here and reduce-scatters along the sequence; the head gathers
the sequence and shares three numbers a token (`ops/loss.py`) instead of logits.
"""

import time

import torch
from torch import Tensor, nn

from ndtrain.ops.loss import linear_cross_entropy
from ndtrain.parallel.sequence import gather_sequence, reduce_scatter_sequence
from ndtrain.runtime.runtime import Runtime


class _HeldRows(torch.autograd.Function):
    """Embedding rows of the tokens held here, zeros for the others."""

    @staticmethod
    def forward(ctx, tokens: Tensor, weight: Tensor, first_row: int) -> Tensor:  # type: ignore[no-untyped-def]
        row = tokens - first_row
        held = (row >= 0) & (row < weight.shape[0])
        row = row.where(held, 0)
        ctx.save_for_backward(row, held)
        ctx.num_rows = weight.shape[0]
        return nn.functional.embedding(row, weight) * held[..., None]

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        row, held = ctx.saved_tensors
        dy = dy * held[..., None]
        dweight = torch.ops.aten.embedding_dense_backward(dy, row, ctx.num_rows, -1, False)
        return None, dweight, None


class VocabularyParallelEmbedding(nn.Module):
    """tokens [B, S] -> [S/t, B, H]."""

    def __init__(self, weight: nn.Parameter, first_row: int, runtime: Runtime, name: str) -> None:
        super().__init__()
        self.weight = weight
        self.first_row = first_row
        self.runtime = runtime
        self.name = name

    def forward(self, tokens_BS: Tensor) -> Tensor:
        with self.runtime.compute(self.name):
            partial = _HeldRows.apply(tokens_BS.t(), self.weight, self.first_row)
        return reduce_scatter_sequence(partial, self.runtime, self.name)


class VocabularyParallelHead(nn.Module):
    """loss(x [S/t, B, H], targets [B, S], weights [B, S]) -> the same scalar on every rank."""

    def __init__(self, weight: nn.Parameter, first_row: int, runtime: Runtime, name: str) -> None:
        super().__init__()
        self.weight = weight
        self.first_row = first_row
        self.runtime = runtime
        self.name = name

    def forward(self, x_SBH: Tensor) -> Tensor:
        """Logits of the rows held here, of all tokens: [S, B, V/t]."""
        x_full = gather_sequence(x_SBH, self.runtime, self.name)
        return nn.functional.linear(x_full, self.weight)

    def loss(self, x_SBH: Tensor, targets_BS: Tensor, weights_BS: Tensor) -> Tensor:
        x_full = gather_sequence(x_SBH, self.runtime, self.name)
        start_ns = time.perf_counter_ns()

        def all_statistics(statistics_3T: Tensor) -> Tensor:
            # The compute span stops here: it must not enclose a blocking collective.
            nonlocal start_ns
            self.runtime.spans.add(self.name, "compute", start_ns, time.perf_counter_ns())
            axis, name = self.runtime.mesh.tensor, f"{self.name}.statistics"
            gathered = self.runtime.collectives.all_gather(statistics_3T[None], axis, name)
            start_ns = time.perf_counter_ns()
            return gathered

        loss = linear_cross_entropy(
            x_full.flatten(0, 1),
            self.weight,
            targets_BS.t().flatten(),
            weights_BS.t().flatten(),
            self.first_row,
            all_statistics,
        )
        self.runtime.spans.add(self.name, "compute", start_ns, time.perf_counter_ns())
        return loss

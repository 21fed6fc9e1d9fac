"""Embedding and output head with the vocabulary sharded by rows over the tensor ranks.

The embedding looks up the rows held here and reduce-scatters along the sequence; the head gathers
the sequence and shares three numbers a token (`ops/loss.py`) instead of logits.
"""

import time

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ndtrain.ops.loss import LossAndGradients, scale_once
from ndtrain.overlap.collective_matmul import NUM_CHUNKS
from ndtrain.overlap.modes import Modes
from ndtrain.overlap.operations import StridedRows
from ndtrain.parallel.sequence import gather_sequence, reduce_scatter_sequence
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.streams import Pending


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

    def __init__(
        self, weight: nn.Parameter, first_row: int, runtime: Runtime, name: str, modes: Modes
    ) -> None:
        super().__init__()
        self.weight = weight
        self.first_row = first_row
        self.runtime = runtime
        self.name = name
        # All ranks must hold the logits of the same tokens at a time to share their statistics,
        # so what overlaps is sub-chunks of every shard: there is no ring.
        self.num_chunks = NUM_CHUNKS if modes.of("head", "forward") in ("chunk", "ring") else 1
        self.streams = runtime.serial_streams if modes.serial else runtime.streams

    def forward(self, x_SBH: Tensor) -> Tensor:
        """Logits of the rows held here, of all tokens: [S, B, V/t]."""
        x_full = gather_sequence(x_SBH, self.runtime, self.name)
        return nn.functional.linear(x_full, self.weight)

    def loss(self, x_SBH: Tensor, targets_BS: Tensor, weights_BS: Tensor) -> Tensor:
        want = torch.is_grad_enabled() and (x_SBH.requires_grad or self.weight.requires_grad)
        targets_SB, weights_SB = targets_BS.t(), weights_BS.t()
        return _HeadLoss.apply(x_SBH, self.weight, targets_SB, weights_SB, self, want)


class _HeadLoss(torch.autograd.Function):
    """Sub-chunks of the sequence: while one multiplies the next is gathered, and the gradient of
    the one before is reduced. All gradients are made in forward (`ops/loss.py`)."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x_SBH, weight, targets_SB, weights_SB, head: VocabularyParallelHead, want: bool
    ) -> Tensor:
        watch = _Watch(head)
        gradients = LossAndGradients(weight, head.first_row, watch.all_statistics, want)
        gathered = [_submit_gather(head, part) for part in x_SBH.chunk(head.num_chunks)]
        scattered = []
        for index, pending in enumerate(gathered):
            rows = StridedRows(head.runtime.mesh.tensor.size, index, head.num_chunks)
            x_full = pending.wait()
            watch.start()
            dx = gradients.add(
                x_full.flatten(0, 1), rows(targets_SB).flatten(), rows(weights_SB).flatten()
            )
            watch.stop()
            if dx is not None:
                scattered.append(_submit_scatter(head, dx.view_as(x_full)))
        ctx.gradients = None
        if want:
            dx_SBH = torch.cat([pending.wait() for pending in scattered])
            ctx.gradients = (dx_SBH, gradients.dweight)
        return gradients.loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss: Tensor):  # type: ignore[no-untyped-def]
        dx, dweight = scale_once(ctx, dloss)
        return dx, dweight, *([None] * 4)


def _submit_gather(head: VocabularyParallelHead, part: Tensor) -> Pending:
    axis, name = head.runtime.mesh.tensor, head.name
    return head.streams["gather"].submit(name, lambda c: c.all_gather(part, axis, name))


def _submit_scatter(head: VocabularyParallelHead, dx: Tensor) -> Pending:
    axis, name = head.runtime.mesh.tensor, head.name
    return head.streams["scatter"].submit(name, lambda c: c.reduce_scatter(dx, axis, name))


class _Watch:
    """Compute spans of the head, interrupted by the exchange of statistics, which blocks."""

    def __init__(self, head: VocabularyParallelHead) -> None:
        self._head = head
        self._start_ns = 0

    def start(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def stop(self) -> None:
        spans = self._head.runtime.spans
        spans.add(self._head.name, "compute", self._start_ns, time.perf_counter_ns())

    def all_statistics(self, statistics_3T: Tensor) -> Tensor:
        self.stop()
        runtime, name = self._head.runtime, f"{self._head.name}.statistics"
        gathered = runtime.collectives.all_gather(statistics_3T[None], runtime.mesh.tensor, name)
        self.start()
        return gathered

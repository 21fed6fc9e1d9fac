"""Embedding and output head with the vocabulary sharded by rows over the tensor ranks.

The embedding looks up the rows held here and reduce-scatters along the sequence, or, where sizes
may depend on the data, sends each rank what it needs (`embedding_rows.py`). The head gathers the
sequence and shares three numbers a token (`overlap/head.py`) instead of logits.
"""

import functools

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ndtrain.ops.loss import scale_once
from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.execute import execute
from ndtrain.overlap.head import HeadTokens, head_schedule
from ndtrain.overlap.modes import Modes
from ndtrain.overlap.schedule import Schedule
from ndtrain.parallel.embedding_rows import look_up
from ndtrain.parallel.sequence import gather_sequence, reduce_scatter_sequence
from ndtrain.runtime.place import Place
from ndtrain.runtime.runtime import Runtime


class _HeldRows(torch.autograd.Function):
    """Embedding rows of the tokens held here, zeros for the others."""

    @staticmethod
    def forward(ctx, tokens: Tensor, weight: Tensor, place: Place) -> Tensor:  # type: ignore[no-untyped-def]
        row = place.from_first(tokens, weight.shape[0])
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

    def __init__(self, weight: nn.Parameter, runtime: Runtime, name: str) -> None:
        super().__init__()
        self.weight = weight
        self.runtime = runtime
        self.name = name

    def forward(self, tokens_BS: Tensor) -> Tensor:
        if self.runtime.sizes_may_vary:
            return look_up(tokens_BS.t(), self.weight, self.runtime, self.name)
        with self.runtime.compute(self.name):
            place = self.runtime.place(self.runtime.mesh.tensor)
            partial = _HeldRows.apply(tokens_BS.t(), self.weight, place)
        return reduce_scatter_sequence(partial, self.runtime, self.name)


class VocabularyParallelHead(nn.Module):
    """loss(x [S/t, B, H], targets [B, S], weights [B, S]) -> the same scalar on every rank."""

    def __init__(self, weight: nn.Parameter, runtime: Runtime, name: str, modes: Modes) -> None:
        super().__init__()
        self.weight = weight
        self.runtime = runtime
        self.name = name
        self.mode: Mode = modes.of("head", "forward")
        self.serial = modes.is_serial("head")

    def forward(self, x_SBH: Tensor) -> Tensor:
        """Logits of the rows held here, of all tokens: [S, B, V/t]."""
        x_full = gather_sequence(x_SBH, self.runtime, self.name)
        return nn.functional.linear(x_full, self.weight)

    def loss(self, x_SBH: Tensor, targets_BS: Tensor, weights_BS: Tensor) -> Tensor:
        want = torch.is_grad_enabled() and (x_SBH.requires_grad or self.weight.requires_grad)
        targets_SB, weights_SB = targets_BS.t(), weights_BS.t()
        return _HeadLoss.apply(x_SBH, self.weight, targets_SB, weights_SB, self, want)

    def schedule(self, x_SBH: Tensor, want_gradients: bool) -> Schedule:
        """Of a step whose own rows are x_SBH."""
        place = self.runtime.place(self.runtime.mesh.tensor)
        tokens = HeadTokens.of(x_SBH, self.weight, place.size, self.mode)
        return _schedule(self.name, tokens, place, want_gradients)


# A run has few shapes: of training, of evaluation, with and without gradients.
_schedule = functools.lru_cache(maxsize=16)(head_schedule)


class _HeadLoss(torch.autograd.Function):
    """All gradients are made in forward (`ops/loss.py`); backward only scales."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x_SBH, weight, targets_SB, weights_SB, head: VocabularyParallelHead, want: bool
    ) -> Tensor:
        loss, *gradients = execute(
            head.schedule(x_SBH, want),
            (x_SBH, weight, targets_SB, weights_SB),
            head.runtime,
            head.runtime.mesh.tensor,
            head.serial,
        )
        ctx.gradients = tuple(gradients) if want else None
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss: Tensor):  # type: ignore[no-untyped-def]
        dx, dweight = scale_once(ctx, dloss)
        return dx, dweight, *([None] * 4)

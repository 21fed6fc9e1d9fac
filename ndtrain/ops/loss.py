"""Output head and cross-entropy in one, without ever holding all logits.

    loss = linear_cross_entropy(x_TH, weight_VH, targets_T, weights_T)

T tokens, H hidden, V vocabulary rows held here. Tokens pass in chunks: logits, softmax statistics,
gradient of the logits, gradients of x and weight, all in forward, so that a chunk's logits live
once and are never computed again (as in Liger's fused linear cross-entropy, arXiv:2410.10989).
Backward only scales.

With a vocabulary sharded by rows each shard calls this with its `first_row` and a `combine` that
stacks the statistics of all shards; the mathematics is the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ndtrain.ops.cost import Cost, nbytes, register_cost
from ndtrain.ops.norm import wide

IGNORED = -100  # a target that the loss does not count; PyTorch's and Hugging Face's convention
CHUNK_BYTES = 8 * 2**20  # of logits in the wide dtype: large matmuls, small beside activations

Combine = Callable[[Tensor], Tensor]


def cross_entropy_reference(logits_TV: Tensor, targets_T: Tensor, weights_T: Tensor) -> Tensor:
    """sum over tokens of weight * -log softmax(logits)[target]; differentiable by autograd."""
    logits = logits_TV.to(wide(logits_TV.dtype))
    losses = F.cross_entropy(logits, targets_T, ignore_index=IGNORED, reduction="none")
    return (losses * weights_T.to(logits.dtype)).sum()


@torch.library.custom_op("ndtrain::vocabulary_statistics", mutates_args=())
def vocabulary_statistics(logits_TV: Tensor, rows_T: Tensor) -> Tensor:
    """Returns [3, T]: max, sum of exp(logit - max), target's logit (0 if it is not held here).

    rows_T: of the targets, counted from the first that is held here; outside [0, V) elsewhere.
    """
    logits = logits_TV.to(wide(logits_TV.dtype))
    largest = logits.amax(-1)
    sum_exp = (logits - largest[:, None]).exp_().sum(-1)
    held = (rows_T >= 0) & (rows_T < logits.shape[-1])
    picked = logits.gather(-1, rows_T.where(held, 0)[:, None]).squeeze(-1)
    return torch.stack([largest, sum_exp, picked * held])


@vocabulary_statistics.register_fake
def _(logits_TV: Tensor, rows_T: Tensor) -> Tensor:
    return logits_TV.new_empty((3, logits_TV.shape[0]), dtype=wide(logits_TV.dtype))


@torch.library.custom_op("ndtrain::vocabulary_gradient_", mutates_args=("logits_TV",))
def vocabulary_gradient_(
    logits_TV: Tensor,
    rows_T: Tensor,
    weights_T: Tensor,
    largest_T: Tensor,
    sum_exp_T: Tensor,
) -> None:
    """Overwrites logits by weight * (softmax - one_hot(target)); rows_T: as for the statistics.

    softmax = exp(logit - largest) / sum_exp, both over all shards. Not exp(logit - lse): the
    rounding of lse, which is large beside the differences, made the gradient's error 1.5 times as
    large.
    """
    gradient = logits_TV.to(wide(logits_TV.dtype))
    torch.sub(gradient, largest_T[:, None], out=gradient).exp_()
    gradient.mul_((weights_T / sum_exp_T)[:, None])
    held = (rows_T >= 0) & (rows_T < gradient.shape[-1])
    gradient.scatter_add_(-1, rows_T.where(held, 0)[:, None], -(held * weights_T)[:, None])
    if gradient is not logits_TV:
        logits_TV.copy_(gradient)


@vocabulary_gradient_.register_fake
def _(
    logits_TV: Tensor,
    rows_T: Tensor,
    weights_T: Tensor,
    largest_T: Tensor,
    sum_exp_T: Tensor,
) -> None:
    return None


def vocabulary_gradient(
    logits_TV: Tensor,
    rows_T: Tensor,
    weights_T: Tensor,
    largest_T: Tensor,
    sum_exp_T: Tensor,
) -> Tensor:
    """The same; the logits' memory is used again where there is such a thing.

    On xla an op must not write into its arguments: there it is computed by value.
    """
    if logits_TV.device.type != "xla":
        vocabulary_gradient_(logits_TV, rows_T, weights_T, largest_T, sum_exp_T)
        return logits_TV
    logits = logits_TV.to(wide(logits_TV.dtype))
    softmax = (logits - largest_T[:, None]).exp() / sum_exp_T[:, None]
    row = torch.arange(logits.shape[-1], device=logits.device)
    is_target = row == rows_T[:, None]
    return (weights_T[:, None] * (softmax - is_target.to(softmax.dtype))).to(logits_TV.dtype)


def combine_statistics(statistics_R3T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[R, 3, T] of R shards -> those of the whole vocabulary, each [T], summed in shard order."""
    largest, sum_exp, picked = statistics_R3T.unbind(1)
    overall = largest.amax(0)
    total = (sum_exp * (largest - overall).exp()).sum(0)
    return overall, total, picked.sum(0)


def counted_weights(targets_T: Tensor, weights_T: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights without those of ignored targets; any shape."""
    return torch.where(targets_T == IGNORED, 0, weights_T).to(dtype)


def rows_in_chunk(num_vocabulary_rows: int, dtype: torch.dtype) -> int:
    """Tokens whose logits fill CHUNK_BYTES; dtype: the wide one."""
    return max(1, CHUNK_BYTES // (num_vocabulary_rows * dtype.itemsize))


def weighted_loss(combined_3T: Sequence[Tensor], weights_T: Tensor) -> Tensor:
    """The sum of weights * (log-sum-exp - target's logit), from statistics over all shards."""
    largest, sum_exp, picked = combined_3T
    return ((sum_exp.log() + (largest - picked)) * weights_T).sum()


def add_weight_gradient(total_VH: Tensor | None, dlogits_TV: Tensor, x_TH: Tensor) -> Tensor:
    """dlogits^T x added to the total, in the wide dtype once there is more than one part.

    In place where the dtype allows: this is as large as the head, and the peak of memory.
    """
    if total_VH is None:
        return dlogits_TV.t() @ x_TH
    if x_TH.dtype == wide(x_TH.dtype):
        return torch.addmm(total_VH, dlogits_TV.t(), x_TH, out=total_VH)
    return total_VH.to(wide(x_TH.dtype)).add_(dlogits_TV.t() @ x_TH)


class LossAndGradients:
    """The loss of tokens that come in parts, and the gradients of x and weight.

    gradients = LossAndGradients(weight_VH, first_row, combine, want_gradient=True)
    dx_TH = gradients.add(x_TH, targets_T, weights_T)       # of each part
    gradients.loss, gradients.dweight                       # of all parts
    """

    def __init__(
        self, weight_VH: Tensor, first_row: int, combine: Combine, want_gradient: bool
    ) -> None:
        self._weight_VH = weight_VH
        self._first_row = first_row
        self._combine = combine
        self._want_gradient = want_gradient
        self._dweight: Tensor | None = None
        self.loss = weight_VH.new_zeros((), dtype=wide(weight_VH.dtype))

    @property
    def dweight(self) -> Tensor:
        assert self._dweight is not None
        return self._dweight.to(self._weight_VH.dtype)

    def add(self, x_TH: Tensor, targets_T: Tensor, weights_T: Tensor) -> Tensor | None:
        """Adds a part's loss and its share of dweight; returns dx if gradients are wanted."""
        dtype = self.loss.dtype
        weights_T = counted_weights(targets_T, weights_T, dtype)
        rows = rows_in_chunk(self._weight_VH.shape[0], dtype)
        chunks = zip(x_TH.split(rows), targets_T.split(rows), weights_T.split(rows), strict=True)
        dx_chunks = [self._add_chunk(*chunk) for chunk in chunks]
        return torch.cat(dx_chunks) if self._want_gradient else None

    def _add_chunk(self, x: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        logits = x @ self._weight_VH.t()
        rows = targets - self._first_row
        own = vocabulary_statistics(logits, rows)
        largest, sum_exp, picked = combine_statistics(self._combine(own))
        self.loss += weighted_loss((largest, sum_exp, picked), weights)
        if not self._want_gradient:
            return logits
        dlogits = vocabulary_gradient(logits, rows, weights, largest, sum_exp)
        self._dweight = add_weight_gradient(self._dweight, dlogits, x)
        return dlogits @ self._weight_VH


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x_TH, weight_VH, targets_T, weights_T, first_row, combine, want_gradient
    ) -> Tensor:
        gradients = LossAndGradients(weight_VH, first_row, combine, want_gradient)
        dx = gradients.add(x_TH, targets_T, weights_T)
        ctx.gradients = (dx, gradients.dweight) if want_gradient else None
        return gradients.loss

    @staticmethod
    @once_differentiable  # the gradients were made in forward: a second derivative would be wrong
    def backward(ctx, dloss: Tensor):  # type: ignore[no-untyped-def]
        dx, dweight = scale_once(ctx, dloss)
        return dx, dweight, *([None] * 5)


def scale_once(ctx: Any, dloss: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients that forward left in `ctx.gradients`, times the loss's own, in place.

    In place because dweight is as large as the head: a copy would be the peak of memory. So a
    graph can be run backward once. The trainer's dloss is one, but any graph may hold the loss.
    """
    if ctx.gradients is None:
        raise RuntimeError("backward ran twice through the loss, which scales its gradients once")
    (dx, dweight), ctx.gradients = ctx.gradients, None
    return dx.mul_(dloss.to(dx.dtype)), dweight.mul_(dloss.to(dweight.dtype))


def linear_cross_entropy(
    x_TH: Tensor,
    weight_VH: Tensor,
    targets_T: Tensor,
    weights_T: Tensor,
    first_row: int = 0,
    combine: Combine = lambda statistics: statistics[None],
) -> Tensor:
    """Returns the scalar sum of weights * cross-entropy, in fp32 (fp64 for fp64).

    targets_T: int64, vocabulary ids over all shards; IGNORED ones count nothing.
    weights_T: what a token's loss counts, e.g. 1 / number of counted tokens in the batch.
    combine: [3, T] of this shard -> [R, 3, T] of all shards.
    """
    want_gradient = torch.is_grad_enabled() and (x_TH.requires_grad or weight_VH.requires_grad)
    return _LinearCrossEntropy.apply(
        x_TH, weight_VH, targets_T, weights_T, first_row, combine, want_gradient
    )


@register_cost(vocabulary_statistics)
def _(logits_TV: Tensor, rows_T: Tensor, *, result: Tensor) -> Cost:
    workspace = logits_TV.numel() * wide(logits_TV.dtype).itemsize
    return Cost(4 * logits_TV.numel(), nbytes(logits_TV, rows_T, result), workspace)


@register_cost(vocabulary_gradient_)
def _(
    logits_TV: Tensor,
    rows_T: Tensor,
    weights_T: Tensor,
    largest_T: Tensor,
    sum_exp_T: Tensor,
    *,
    result: None,
) -> Cost:
    workspace = 0 if logits_TV.dtype == wide(logits_TV.dtype) else 4 * logits_TV.numel()
    read = nbytes(rows_T, weights_T, largest_T, sum_exp_T)
    return Cost(3 * logits_TV.numel(), 2 * nbytes(logits_TV) + read, workspace)

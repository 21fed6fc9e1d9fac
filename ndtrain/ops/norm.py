"""RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467).

    y = rms_norm(x, weight, eps)      # y = weight * x / sqrt(mean(x^2) + eps), over the last dim

Statistics and product are computed in fp32 (fp64 for fp64 inputs) and rounded once.
"""

import torch
from torch import Tensor

from ndtrain.ops.cost import Cost, nbytes, register_cost


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a reduction over `dtype` is computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The definition, differentiable by autograd."""
    x_wide = x.to(wide(x.dtype))
    inverse_rms = torch.rsqrt(x_wide.square().mean(-1, keepdim=True) + eps)
    return (weight.to(x_wide.dtype) * x_wide * inverse_rms).to(x.dtype)


@torch.library.custom_op("ndtrain::rms_norm_forward", mutates_args=())
def rms_norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns y like x, contiguous, and the inverse RMS [..., 1] in fp32 (fp64 for fp64)."""
    x_wide = x.to(wide(x.dtype))
    # The norm over the last dim reads x once and writes nothing of its size, unlike x.square().
    square_sum = torch.linalg.vector_norm(x_wide, dim=-1, keepdim=True).square_()
    inverse_rms = square_sum.div_(x.shape[-1]).add_(eps).rsqrt_()
    y = (x_wide * inverse_rms).mul_(weight)
    return y.to(x.dtype).contiguous(), inverse_rms.contiguous()


@rms_norm_forward.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((*x.shape[:-1], 1), dtype=wide(x.dtype))


@torch.library.custom_op("ndtrain::rms_norm_backward", mutates_args=())
def rms_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, inverse_rms: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns dx like x and dweight like weight, contiguous."""
    return _gradients(dy, x, weight, inverse_rms)


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, inverse_rms: Tensor) -> tuple[Tensor, Tensor]:
    """With n = x * r: dx = r * (g - n * mean(g * n)), g = dy * weight; dweight = sum(dy * n)."""
    width = x.shape[-1]
    normed = x.to(inverse_rms.dtype) * inverse_rms
    dy_wide = dy.to(inverse_rms.dtype)
    dweight = (dy_wide * normed).reshape(-1, width).sum(0)
    g = dy_wide * weight
    mean = torch.linalg.vecdot(g, normed).unsqueeze(-1).div_(width)
    dx = g.sub_(normed.mul_(mean)).mul_(inverse_rms)
    return dx.to(x.dtype).contiguous(), dweight.to(weight.dtype)


@rms_norm_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, inverse_rms: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, dy: Tensor, _: Tensor):  # type: ignore[no-untyped-def]
    x, weight, inverse_rms = ctx.saved_tensors
    return *rms_norm_backward(dy, x, weight, inverse_rms), None


rms_norm_forward.register_autograd(_backward, setup_context=_setup)


class _Compiled(torch.autograd.Function):
    """PyTorch's own operations, which keep for backward no more than the op does."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[no-untyped-def]
        x_wide = x.to(wide(x.dtype))
        inverse_rms = torch.rsqrt(x_wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, inverse_rms)
        return (weight.to(x_wide.dtype) * x_wide * inverse_rms).to(x.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        return *_gradients(dy, *ctx.saved_tensors), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., W], weight [W] -> like x."""
    if torch.compiler.is_compiling():
        return _Compiled.apply(x, weight, eps)
    return rms_norm_forward(x, weight, eps)[0]


@register_cost(rms_norm_forward)
def _(x: Tensor, weight: Tensor, eps: float, *, result: tuple) -> Cost:
    return Cost(4 * x.numel(), nbytes(x, weight, result))


@register_cost(rms_norm_backward)
def _(dy: Tensor, x: Tensor, weight: Tensor, inverse_rms: Tensor, *, result: tuple) -> Cost:
    return Cost(9 * x.numel(), nbytes(dy, x, weight, inverse_rms, result))

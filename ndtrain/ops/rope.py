"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split form of Llama.

    cos, sin = rope_tables(positions_BS, head_dim, theta, dtype)   # each [S, B, 1, D/2]
    y = rope(x_SBND, cos, sin)

Angles are computed in fp64: in fp32 the product of a position of 10^4 and a frequency already has
an error of 1e-3 rad, and the tables are made once a step.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ndtrain.ops.cost import Cost, nbytes, register_cost


def rope_tables(
    positions_BS: Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Returns cos and sin, [S, B, 1, head_dim/2]; fp32 unless dtype is fp64."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions_BS.device)
    frequencies = theta ** (-exponents / head_dim)
    angles = positions_BS.t().to(torch.float64)[:, :, None, None] * frequencies
    table_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return angles.cos().to(table_dtype), angles.sin().to(table_dtype)


def rope_reference(
    x_SBND: Tensor,
    cos: Tensor,
    sin: Tensor,
    split: Callable[..., Sequence[Tensor]] = torch.split,
) -> Tensor:
    """The definition, differentiable by autograd."""
    first, second = split(x_SBND.to(cos.dtype), x_SBND.shape[-1] // 2, -1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat(rotated, dim=-1).to(x_SBND.dtype)


@torch.library.custom_op("ndtrain::rope", mutates_args=())
def rotate(x_SBND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x [S, B, N, D] by tables [S, B, 1, D/2]; contiguous, dtype of x, rounded once."""
    half = x_SBND.shape[-1] // 2
    x_wide = x_SBND.to(cos.dtype)
    first, second = x_wide[..., :half], x_wide[..., half:]
    y = torch.empty(x_SBND.shape, dtype=cos.dtype, device=x_SBND.device)
    torch.mul(first, cos, out=y[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=y[..., half:]).addcmul_(first, sin)
    return y.to(x_SBND.dtype)


@rotate.register_fake
def _(x_SBND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x_SBND.new_empty(x_SBND.shape)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[1], inputs[2])


def _backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
    cos, sin = ctx.saved_tensors
    return rotate(dy, cos, -sin), None, None  # a rotation's transpose turns the other way


rotate.register_autograd(_backward, setup_context=_setup)


def rope(x_SBND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [S, B, N, D], tables [S, B, 1, D/2] -> like x."""
    if torch.compiler.is_compiling():
        return rope_reference(x_SBND, cos, sin)
    return rotate(x_SBND, cos, sin)


@register_cost(rotate)
def _(x_SBND: Tensor, cos: Tensor, sin: Tensor, *, result: Tensor) -> Cost:
    return Cost(3 * x_SBND.numel(), nbytes(x_SBND, cos, sin, result))

"""SwiGLU (Shazeer 2020, arXiv:2002.05202) on a fused gate|up: y = silu(gate) * up.

    y = swiglu(gate_up)          # [..., 2I] -> [..., I]

Only the input is kept for backward; silu(gate) is computed again there.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ndtrain.ops.cost import Cost, nbytes, register_cost
from ndtrain.ops.norm import wide


def swiglu_reference(
    gate_up: Tensor, split: Callable[..., Sequence[Tensor]] = torch.split
) -> Tensor:
    """The definition, differentiable by autograd."""
    gate, up = split(gate_up.to(wide(gate_up.dtype)), gate_up.shape[-1] // 2, -1)
    return (F.silu(gate) * up).to(gate_up.dtype)


@torch.library.custom_op("ndtrain::swiglu", mutates_args=())
def swiglu_forward(gate_up: Tensor) -> Tensor:
    """[..., 2I] -> [..., I]; computed in fp32 (fp64 for fp64), rounded once."""
    gate, up = gate_up.to(wide(gate_up.dtype)).chunk(2, dim=-1)
    return F.silu(gate).mul_(up).to(gate_up.dtype).contiguous()


@swiglu_forward.register_fake
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))


@torch.library.custom_op("ndtrain::swiglu_backward", mutates_args=())
def swiglu_backward(dy: Tensor, gate_up: Tensor) -> Tensor:
    """dy [..., I], gate_up [..., 2I] -> dgate|dup [..., 2I]."""
    gate, up = gate_up.to(wide(gate_up.dtype)).chunk(2, dim=-1)
    dy_wide = dy.to(gate.dtype)
    dgate_up = torch.empty(gate_up.shape, dtype=gate.dtype, device=gate.device)
    dgate, dup = dgate_up.chunk(2, dim=-1)
    # Each half is worked out in its own place: temporaries here would be the peak of memory.
    torch.ops.aten.silu.out(gate, out=dup).mul_(dy_wide)
    torch.mul(dy_wide, up, out=dgate)
    # aten has silu's derivative in one pass: dy*up * sigmoid(gate) * (1 + gate * (1 - sigmoid))
    torch.ops.aten.silu_backward.grad_input(dgate, gate, grad_input=dgate)
    return dgate_up.to(gate_up.dtype)


def swiglu_backward_by_value(
    dy: Tensor, gate_up: Tensor, split: Callable[..., Sequence[Tensor]] = torch.split
) -> Tensor:
    """The same without a write into a view, for those who record values: xla, torch.compile."""
    gate, up = split(gate_up.to(wide(gate_up.dtype)), gate_up.shape[-1] // 2, -1)
    dy_wide = dy.to(gate.dtype)
    sigmoid = torch.sigmoid(gate)
    dgate = dy_wide * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat([dgate, dy_wide * gate * sigmoid], dim=-1).to(gate_up.dtype)


@swiglu_backward.register_fake
def _(dy: Tensor, gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[0])


def _backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
    (gate_up,) = ctx.saved_tensors
    return swiglu_backward(dy, gate_up)


swiglu_forward.register_autograd(_backward, setup_context=_setup)


class _Compiled(torch.autograd.Function):
    """PyTorch's own operations, which keep for backward no more than the op does."""

    @staticmethod
    def forward(ctx, gate_up: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(gate_up)
        return swiglu_reference(gate_up)

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        return swiglu_backward_by_value(dy, *ctx.saved_tensors)


def swiglu(gate_up: Tensor) -> Tensor:
    """[..., 2I] -> [..., I]."""
    if torch.compiler.is_compiling():
        return _Compiled.apply(gate_up)
    return swiglu_forward(gate_up)


@register_cost(swiglu_forward)
def _(gate_up: Tensor, *, result: Tensor) -> Cost:
    return Cost(5 * result.numel(), nbytes(gate_up, result))


@register_cost(swiglu_backward)
def _(dy: Tensor, gate_up: Tensor, *, result: Tensor) -> Cost:
    return Cost(11 * dy.numel(), nbytes(dy, gate_up, result))

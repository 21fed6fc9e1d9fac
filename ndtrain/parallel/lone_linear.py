"""A linear layer on one tensor rank: its weight gradient is there before its input's is computed.

    y = lone_product(x, weight, runtime, "layers.0.mlp.down")        # differentiable

No collective of the tensor axis hides behind these products, but ZeRO's bucket does: it travels as
soon as the weight gradient is there, behind the product for the input and all that comes after.
autograd hands on what a node returned when the node has ended, so the backward is two nodes, and a
parameter's hooks run between them: autograd puts them before everything else that is ready.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, autograd

from ndtrain.overlap.operations import InputGradient, Linear, WeightGradient
from ndtrain.parallel.kept import Kept
from ndtrain.runtime.runtime import Runtime


def lone_product(x: Tensor, weight: Tensor, runtime: Runtime, name: str) -> Tensor:
    """x [S, B, in], weight [out, in] -> [S, B, out]."""
    layer = _Layer(runtime, name, weight)
    handed: list[Tensor] = []
    kept = Kept()
    operand = _Operand.apply(x, layer, handed, kept)
    return _Product.apply(operand, weight, layer, handed, kept)


@dataclass(frozen=True)
class _Layer:
    runtime: Runtime
    name: str
    weight: Tensor  # for `_Operand`: as an argument of it, its gradient would wait for dx too

    def compute(self, what: str) -> Any:
        return self.runtime.compute(f"{self.name}.{what}")


class _Operand(autograd.Function):
    """Keeps x for the weight gradient; computes dx from the dy that `_Product` handed on."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: _Layer, handed, kept) -> Tensor:  # type: ignore[no-untyped-def]
        kept.hold(ctx, x)
        ctx.layer, ctx.handed = layer, handed
        return x.view_as(x)

    @staticmethod
    def backward(ctx, _shape_of_dx: Tensor):  # type: ignore[no-untyped-def]
        with ctx.layer.compute("backward.product"):
            return InputGradient()(ctx.handed.pop(), ctx.layer.weight), None, None, None


class _Product(autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, layer: _Layer, handed, kept) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.layer, ctx.handed, ctx.kept = layer, handed, kept
        with layer.compute("product"):
            return Linear()(x, weight)

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        dy, x = dy.contiguous(), ctx.kept.read()
        wants_dx, wants_dweight, *_ = ctx.needs_input_grad
        dweight = None
        if wants_dweight:
            with ctx.layer.compute("backward.dweight"):
                dweight = WeightGradient()(dy, x)
        if not wants_dx:
            return None, dweight, None, None, None
        ctx.handed.append(dy)
        # autograd wants a gradient of x's shape, and this one takes no memory.
        return dy.new_zeros(()).expand(x.shape), dweight, None, None, None

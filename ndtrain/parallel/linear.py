"""Linear layers of tensor parallelism with a residual stream sharded along the sequence.

Column-parallel: all-gather the tokens, multiply by own rows of the weight. Row-parallel: multiply
by own columns, reduce-scatter the tokens. S is the whole sequence, t the tensor ranks:

    x [S/t, B, in]  --gather-->  [S, B, in]  @ W[out/t, in]^T  ->  [S, B, out/t]
    x [S, B, in/t]  @ W[out, in/t]^T  ->  [S, B, out]  --reduce-scatter-->  [S/t, B, out]

The gathered tokens are not kept for backward, they are gathered again (Korthikanti et al. 2022,
arXiv:2205.05198): activation memory stays 1/t.
"""

import torch
from torch import Tensor, nn

from ndtrain.runtime.runtime import Runtime


def matmul_gradients(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """dy [S, B, out], x [S, B, in], weight [out, in] -> dx like x, dweight like weight."""
    dx = dy @ weight
    dweight = dy.flatten(0, -2).t() @ x.flatten(0, -2)
    return dx, dweight


class _GatherLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, runtime: Runtime, name: str) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.runtime, ctx.name = runtime, name
        x_full = runtime.collectives.all_gather(x, runtime.mesh.tensor, name)
        with runtime.compute(name):
            return nn.functional.linear(x_full, weight)

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        runtime, name = ctx.runtime, f"{ctx.name}.backward"
        x_full = runtime.collectives.all_gather(x, runtime.mesh.tensor, name)
        with runtime.compute(name):
            dx_full, dweight = matmul_gradients(dy, x_full, weight)
        dx = runtime.collectives.reduce_scatter(dx_full, runtime.mesh.tensor, name)
        return dx, dweight, None, None


class _LocalLinear(torch.autograd.Function):
    """The plain product, with its spans."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, runtime: Runtime, name: str) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.runtime, ctx.name = runtime, name
        with runtime.compute(name):
            return nn.functional.linear(x, weight)

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        with ctx.runtime.compute(f"{ctx.name}.backward"):
            return *matmul_gradients(dy, x, weight), None, None


class _ReduceScatter(torch.autograd.Function):
    """Partial sums of the whole sequence -> own rows of the sum; backward gathers.

    Apart from the product before it, so that activation checkpointing, which stops recomputing
    at the last tensor it needs, does not run the collective a second time.
    """

    @staticmethod
    def forward(ctx, x: Tensor, runtime: Runtime, name: str) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.runtime, ctx.name = runtime, name
        return runtime.collectives.reduce_scatter(x, runtime.mesh.tensor, name)

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        runtime, name = ctx.runtime, f"{ctx.name}.backward"
        return runtime.collectives.all_gather(dy, runtime.mesh.tensor, name), None, None


class _Gather(torch.autograd.Function):
    """Own rows -> all rows; backward adds the ranks' gradients of own rows."""

    @staticmethod
    def forward(ctx, x: Tensor, runtime: Runtime, name: str) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.runtime, ctx.name = runtime, name
        return runtime.collectives.all_gather(x, runtime.mesh.tensor, name)

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        runtime, name = ctx.runtime, f"{ctx.name}.backward"
        return runtime.collectives.reduce_scatter(dy, runtime.mesh.tensor, name), None, None


def gather_sequence(x: Tensor, runtime: Runtime, name: str) -> Tensor:
    """[S/t, ...] -> [S, ...]."""
    return _Gather.apply(x, runtime, name)


def reduce_scatter_sequence(x: Tensor, runtime: Runtime, name: str) -> Tensor:
    """[S, ...] partial sums -> [S/t, ...]."""
    return _ReduceScatter.apply(x, runtime, name)


class ColumnParallelLinear(nn.Module):
    """x [S/t, B, in] -> [S, B, out/t]; holds the rows of the weight that `weight` has."""

    def __init__(self, weight: nn.Parameter, runtime: Runtime, name: str) -> None:
        super().__init__()
        self.weight = weight
        self.runtime = runtime
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return _GatherLinear.apply(x, self.weight, self.runtime, self.name)


class RowParallelLinear(nn.Module):
    """x [S, B, in/t] -> [S/t, B, out]; holds the columns of the weight that `weight` has."""

    def __init__(self, weight: nn.Parameter, runtime: Runtime, name: str) -> None:
        super().__init__()
        self.weight = weight
        self.runtime = runtime
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        partial = _LocalLinear.apply(x, self.weight, self.runtime, self.name)
        return reduce_scatter_sequence(partial, self.runtime, self.name)

"""The two collectives of the sequence-parallel region, with their gradients.

Own rows of the residual stream against all rows: one's backward is the other's forward.
"""

from torch import Tensor, autograd

from ndtrain.runtime.runtime import Runtime


class _ReduceScatter(autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, runtime: Runtime, name: str) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.runtime, ctx.name = runtime, name
        return runtime.collectives.reduce_scatter(x, runtime.mesh.tensor, name)

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        runtime, name = ctx.runtime, f"{ctx.name}.backward"
        return runtime.collectives.all_gather(dy, runtime.mesh.tensor, name), None, None


class _Gather(autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, runtime: Runtime, name: str) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.runtime, ctx.name = runtime, name
        return runtime.collectives.all_gather(x, runtime.mesh.tensor, name)

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        runtime, name = ctx.runtime, f"{ctx.name}.backward"
        return runtime.collectives.reduce_scatter(dy, runtime.mesh.tensor, name), None, None


def gather_sequence(x: Tensor, runtime: Runtime, name: str) -> Tensor:
    """[S/t, ...] -> [S, ...]; backward adds the ranks' gradients of own rows."""
    return _Gather.apply(x, runtime, name)


def reduce_scatter_sequence(x: Tensor, runtime: Runtime, name: str) -> Tensor:
    """[S, ...] partial sums -> own rows [S/t, ...] of the sum; backward gathers."""
    return _ReduceScatter.apply(x, runtime, name)

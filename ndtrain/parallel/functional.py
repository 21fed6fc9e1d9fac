"""The overlapped products of tensor parallelism for a training loop of your own, differentiable.

    runtime = start_cpu(tp=2, dp=1, num_kv_heads=2)          # on each rank, gloo's group exists
    h = all_gather_matmul(x, up, runtime)                    # [S/t, B, H] -> [S, B, I/t]
    y = matmul_reduce_scatter(h.relu(), down, runtime)       # [S, B, I/t] -> [S/t, B, H]

Every rank calls them in the same order. `launch/own_loop.py` is a whole program.
"""

from typing import get_args

from torch import Tensor

from ndtrain.core.errors import UserError
from ndtrain.overlap.candidates import COLUMN, ROW
from ndtrain.overlap.collective_matmul import DIVIDES, NUM_CHUNKS, Mode
from ndtrain.parallel.linear import column_product, plan_of, row_product
from ndtrain.runtime.runtime import Runtime


def all_gather_matmul(
    x: Tensor,
    weight: Tensor,
    runtime: Runtime,
    mode: Mode = "ring",
    name: str = "all_gather_matmul",
) -> Tensor:
    """x [S/t, B, in] own rows, weight [out/t, in] own rows -> [S, B, out/t], of all rows.

    The gathered x is not kept: backward gathers it again. mode: one of
    `overlap/collective_matmul.py`. name: of its spans in a trace. Raises UserError for shapes that
    do not fit.
    """
    _check(x, weight, mode, name, own_rows=x.shape[0])
    plan = plan_of(COLUMN, name, runtime, mode, mode, early=mode != "off")
    return column_product(x, weight, plan)


def matmul_reduce_scatter(
    x: Tensor,
    weight: Tensor,
    runtime: Runtime,
    mode: Mode = "ring",
    name: str = "matmul_reduce_scatter",
) -> Tensor:
    """x [S, B, in/t] own columns, weight [out, in/t] -> [S/t, B, out]: own rows of the sum.

    Arguments and errors are those of `all_gather_matmul`.
    """
    num_ranks = runtime.mesh.tensor.size
    if x.ndim == 3 and x.shape[0] % num_ranks:
        raise UserError(
            f"{x.shape[0]} rows cannot be divided by {num_ranks} ranks", name, "pad the sequence"
        )
    _check(x, weight, mode, name, own_rows=x.shape[0] // num_ranks)
    plan = plan_of(ROW, name, runtime, mode, mode, early=mode != "off")
    return row_product(x, weight, plan)


def _check(x: Tensor, weight: Tensor, mode: str, name: str, own_rows: int) -> None:
    if mode not in get_args(Mode):
        legal = ", ".join(get_args(Mode))
        raise UserError(f"there is no mode `{mode}`", name, f"legal: {legal}")
    if x.ndim != 3 or weight.ndim != 2 or x.shape[-1] != weight.shape[-1]:
        raise UserError(
            f"x {list(x.shape)} does not fit weight {list(weight.shape)}",
            name,
            "x is [rows, batch, in], weight [out, in]",
        )
    if mode in DIVIDES and own_rows % NUM_CHUNKS:
        raise UserError(
            f"{own_rows} rows of a rank cannot be divided into {NUM_CHUNKS} chunks",
            name,
            "pad the sequence, or take another mode",
        )

"""RMSNorm over the last dimension, forward and backward.

    y, inverse_rms = rmsnorm_forward(x, weight_H, eps)
    dx, dweight_H = rmsnorm_backward(dy, x, weight_H, inverse_rms)

Algorithm: y = weight * x * r with r = 1 / sqrt(mean(x^2) + eps); with g = dy * weight,
dx = r * (g - x * r^2 * mean(g * x)); dweight = sum over rows of r * dy * x. Statistics, products
and the sum over rows are fp32; each result is rounded once.

Layout: tokens on the partitions, hidden on the free dimension; x is [..., H] in any number of dims.

Tiling: 128 rows, chunks of 2048 columns. The sum over rows is a matmul: dy * x (128 x 128, fp32)
is the stationary operand and r the moving column, so that all of dweight accumulates in one PSUM
bank, element 128 * c + p at [p, c], over all rows of a core.

Limits: H a multiple of 128, at most 8192; any number of rows; bf16 or fp32. Targets: gen2 (API of
NKI 0.2) to gen4. Grid: none or [2] (LNC2): rows are split; the two parts of dweight meet in HBM
behind a core barrier.

Engine budget, trn2, H=4096, bf16, for 128 rows (derived from documented cycles per instruction,
never measured):
    forward   DMA 2 MiB 6 us; ScalarE 4096 cycles 3.4 us; VectorE 4096..8192 cycles 4..9 us
    backward  DMA 3 MiB 8 us; VectorE three products of 8192 cycles 26 us; GpSimd one, 7 us;
              ScalarE 8192 cycles 7 us; TensorE 32 fp32 columns 8192 cycles 3.4 us
"""

import nki
import nki.isa as nisa
import nki.language as nl

from .row_tiles import (
    TILE,
    Tensor,
    copy_block,
    copy_columns,
    core_tiles,
    divide_up,
    load_block,
    load_broadcast,
    load_columns,
    num_rows_of,
    programs,
    regions,
    replace_last,
    rows_in_tile,
)

CHUNK = 2048
"""Columns of one instruction: 4 KiB a partition in bf16, 8 KiB in fp32."""
MAX_HIDDEN = 8192


def check_norm(x: Tensor, weight_H: Tensor) -> tuple[int, int]:
    """Checks shapes and dtypes, returns (rows, hidden)."""
    hidden = x.shape[len(x.shape) - 1]
    assert weight_H.shape == (hidden,), f"weight must be [{hidden}], got {weight_H.shape}"
    assert hidden % TILE == 0, f"hidden must be a multiple of {TILE}, got {hidden}"
    assert hidden <= MAX_HIDDEN, f"hidden must be at most {MAX_HIDDEN}, got {hidden}"
    assert x.dtype in (nl.bfloat16, nl.float32), f"x must be bfloat16 or float32, got {x.dtype}"
    return num_rows_of(x), hidden


def chunks(hidden: int) -> list[tuple[int, int]]:
    """[(first column, last column)] of the chunks of a row."""
    parts = []
    for first in range(0, hidden, CHUNK):
        parts.append((first, min(first + CHUNK, hidden)))
    return parts


@nki.jit
def rmsnorm_forward(x: Tensor, weight_H: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Returns y like x and inverse_rms [..., 1] in fp32.

    x [..., H] bf16 or fp32, weight [H] of any float dtype. Raises AssertionError on a bad argument.
    """
    num_rows, hidden = check_norm(x, weight_H)
    y = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    inverse_rms = nl.ndarray(replace_last(x.shape, 1), dtype=nl.float32, buffer=nl.shared_hbm)
    weight = load_broadcast(weight_H)
    eps_P1 = nl.ndarray((TILE, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=eps_P1, value=eps)
    first, last = core_tiles(divide_up(num_rows, TILE))
    for tile in range(first, last):
        rows = rows_in_tile(tile, num_rows)
        x_tile = load_block(x, tile * TILE, rows, 0, hidden)
        r = inverse_rms_of(x_tile, eps_P1)
        copy_block(inverse_rms, r, tile * TILE, 0, True)
        y_tile = nl.ndarray((rows, hidden), dtype=x.dtype, buffer=nl.sbuf)
        for begin, end in chunks(hidden):
            nisa.scalar_tensor_tensor(
                dst=y_tile[:, begin:end],
                data=x_tile[:, begin:end],
                op0=nl.multiply,
                operand0=r,
                op1=nl.multiply,
                operand1=weight[0:rows, begin:end],
            )
        copy_block(y, y_tile, tile * TILE, 0, True)
    return y, inverse_rms


def inverse_rms_of(x_tile: Tensor, eps_P1: Tensor) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) of each row, [rows, 1] fp32. The bias of gen2 must be a tile."""
    rows, hidden = x_tile.shape
    parts = chunks(hidden)
    sums = nl.ndarray((rows, len(parts)), dtype=nl.float32, buffer=nl.sbuf)
    for number in range(len(parts)):
        begin, end = parts[number]
        squares = nl.ndarray((rows, end - begin), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation_reduce(
            dst=squares,
            op=nl.square,
            data=x_tile[:, begin:end],
            reduce_op=nl.add,
            reduce_res=sums[:, number : number + 1],
        )
    total = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=total, op=nl.add, data=sums, axis=1)
    r = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=r, op=nl.rsqrt, data=total, bias=eps_P1[0:rows, :], scale=1.0 / hidden)
    return r


@nki.jit
def rmsnorm_backward(
    dy: Tensor, x: Tensor, weight_H: Tensor, inverse_rms: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns dx like x and dweight [H] in fp32.

    dy and x [..., H], inverse_rms [..., 1] fp32 from rmsnorm_forward. Raises AssertionError on a
    bad argument.
    """
    num_rows, hidden = check_norm(x, weight_H)
    assert dy.shape == x.shape, f"dy {dy.shape} must have the shape of x {x.shape}"
    assert num_rows_of(inverse_rms) == num_rows, (
        f"inverse_rms {inverse_rms.shape} must hold one number for each of {num_rows} rows"
    )
    dx = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    dweight_H = nl.ndarray((hidden,), dtype=nl.float32, buffer=nl.shared_hbm)
    weight = load_broadcast(weight_H)
    dweight_PC = nl.ndarray((TILE, hidden // TILE), dtype=nl.float32, buffer=nl.psum)
    first, last = core_tiles(divide_up(num_rows, TILE))
    for tile in range(first, last):
        rows = rows_in_tile(tile, num_rows)
        x_tile = load_block(x, tile * TILE, rows, 0, hidden)
        dy_tile = load_block(dy, tile * TILE, rows, 0, hidden)
        r = load_block(inverse_rms, tile * TILE, rows, 0, 1)
        slope = differentiate_weight(dweight_PC, x_tile, dy_tile, weight, r)
        dx_tile = nl.ndarray((rows, hidden), dtype=x.dtype, buffer=nl.sbuf)
        for begin, end in chunks(hidden):
            differentiate_chunk(
                dx_tile[:, begin:end],
                x_tile[:, begin:end],
                dy_tile[:, begin:end],
                weight[0:rows, begin:end],
                (slope, r),
            )
        copy_block(dx, dx_tile, tile * TILE, 0, True)
    store_column_sums(dweight_H, dweight_PC, last > first)
    return dx, dweight_H


def differentiate_weight(
    dweight_PC: Tensor, x_tile: Tensor, dy_tile: Tensor, weight: Tensor, r: Tensor
) -> Tensor:
    """Adds sum(r * dy * x) to dweight in PSUM; returns r^2 * mean(dy * weight * x), [rows, 1]."""
    rows, hidden = x_tile.shape
    parts = chunks(hidden)
    sums = nl.ndarray((rows, len(parts)), dtype=nl.float32, buffer=nl.sbuf)
    for number in range(len(parts)):
        begin, end = parts[number]
        product = nl.ndarray((rows, end - begin), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(
            dst=product,
            data1=dy_tile[:, begin:end],
            data2=x_tile[:, begin:end],
            op=nl.multiply,
            engine=nisa.engine.vector,
        )
        for column in range(begin, end, TILE):
            place = column // TILE
            nisa.nc_matmul(
                dst=dweight_PC[:, place : place + 1],
                stationary=product[:, column - begin : column - begin + TILE],
                moving=r,
            )
        weighted = nl.ndarray((rows, end - begin), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(
            dst=weighted,
            data1=product,
            data2=weight[0:rows, begin:end],
            op=nl.multiply,
            engine=nisa.engine.vector,
        )
        nisa.activation_reduce(
            dst=weighted,
            op=nl.copy,
            data=weighted,
            reduce_op=nl.add,
            reduce_res=sums[:, number : number + 1],
            scale=1.0 / hidden,
        )
    mean = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=mean, op=nl.add, data=sums, axis=1)
    slope = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=slope, data=mean, op0=nl.multiply, operand0=r, op1=nl.multiply, operand1=r
    )
    return slope


def differentiate_chunk(
    dx: Tensor, x: Tensor, dy: Tensor, weight: Tensor, scalars: tuple[Tensor, Tensor]
) -> None:
    """dx = r * (dy * weight - x * slope) of some columns of a row tile."""
    slope, r = scalars
    g = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=g, data1=dy, data2=weight, op=nl.multiply, engine=nisa.engine.gpsimd)
    inner = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.scalar_tensor_tensor(
        dst=inner,
        data=x,
        op0=nl.multiply,
        operand0=slope,
        op1=nl.subtract,
        operand1=g,
        reverse1=True,
    )
    nisa.activation(dst=dx, op=nl.copy, data=inner, scale=r)


def store_column_sums(sums_W: Tensor, psum_PC: Tensor, started: bool) -> None:
    """Writes column sums from PSUM, element 128 c + p at [p, c], summed over the cores."""
    sums_PC = nl.ndarray(psum_PC.shape, dtype=nl.float32, buffer=nl.sbuf)
    width = sums_W.shape[0]
    if started:
        for rows, begin, end in regions(width):
            nisa.tensor_copy(dst=sums_PC[0:rows, begin:end], src=psum_PC[0:rows, begin:end])
    else:
        nisa.memset(dst=sums_PC, value=0.0)
    core, num_cores = programs()
    if num_cores == 1:
        copy_columns(sums_W, sums_PC, 0, width, True)
    else:
        partial = nl.ndarray((num_cores, width), dtype=nl.float32, buffer=nl.shared_hbm)
        copy_columns(partial, sums_PC, core * width, width, True)
        nisa.core_barrier(data=partial, cores=(0, 1))
        sum_over_cores(sums_W, partial)


def sum_over_cores(sums_W: Tensor, partial: Tensor) -> None:
    """Each core adds the two rows of partial [2, W] for its share of the columns."""
    width = sums_W.shape[0]
    first, last = core_tiles(divide_up(width, TILE))
    begin = first * TILE
    count = min(last * TILE, width) - begin
    if count > 0:
        ours = load_columns(partial, begin, count)
        others = load_columns(partial, width + begin, count)
        for rows, start, end in regions(count):
            part = ours[0:rows, start:end]
            other = others[0:rows, start:end]
            nisa.tensor_tensor(dst=part, data1=part, data2=other, op=nl.add)
        copy_columns(sums_W, ours, begin, count, True)

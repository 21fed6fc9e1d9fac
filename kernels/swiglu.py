"""SwiGLU on a fused gate|up projection, forward and backward.

    y = swiglu_forward(gate_up)                # [..., 2F] -> [..., F]: silu(gate) * up
    dgate_up = swiglu_backward(dy, gate_up)    # dgate|dup [..., 2F]

Algorithm: dup = dy * silu(gate), dgate = dy * up * silu'(gate); ScalarE has both functions.
Everything between load and store is fp32; each result is rounded once. Only gate_up is kept for
backward.

Layout: tokens on the partitions, features on the free dimension, any number of leading dims.

Tiling: 128 rows x 2048 features. Limits: any number of rows and features; bf16 or fp32. Targets:
gen2 (API of NKI 0.2) to gen4. Grid: none or [2] (LNC2): rows are split.

Engine budget, trn2, bf16, for 128 rows x 2048 features (derived from documented cycles per
instruction, never measured):
    forward   DMA 1.5 MiB 4.3 us; ScalarE 2048 cycles 1.7 us; VectorE 4096 cycles 4.3 us
    backward  DMA 2.5 MiB 7.1 us; ScalarE 4096 cycles 3.4 us and two loads of its tables 2.6 us;
              VectorE two of 4096 cycles 8.5 us; GpSimd one of 4096 cycles 3.4 us
"""

from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from .row_tiles import (
    TILE,
    Tensor,
    copy_block,
    core_tiles,
    divide_up,
    load_block,
    num_rows_of,
    replace_last,
    rows_in_tile,
)

CHUNK = 2048
"""Features of one instruction: 4 KiB a partition in bf16, 8 KiB in fp32."""


def check_gate_up(gate_up: Tensor) -> tuple[int, int]:
    """Checks gate_up [..., 2F], returns (rows, F)."""
    width = gate_up.shape[len(gate_up.shape) - 1]
    assert width % 2 == 0, f"gate_up must be [..., 2F], got a last dim of {width}"
    assert gate_up.dtype in (nl.bfloat16, nl.float32), (
        f"gate_up must be bfloat16 or float32, got {gate_up.dtype}"
    )
    return num_rows_of(gate_up), width // 2


@nki.jit
def swiglu_forward(gate_up: Tensor) -> Tensor:
    """Returns silu(gate) * up, [..., F] in the dtype of gate_up [..., 2F] (bf16 or fp32).

    Raises AssertionError on a bad argument.
    """
    num_rows, features = check_gate_up(gate_up)
    shape = replace_last(gate_up.shape, features)
    y = nl.ndarray(shape, dtype=gate_up.dtype, buffer=nl.shared_hbm)
    first, last = core_tiles(divide_up(num_rows, TILE))
    for tile in range(first, last):
        row = tile * TILE
        rows = rows_in_tile(tile, num_rows)
        for column in range(0, features, CHUNK):
            width = min(CHUNK, features - column)
            gate = load_block(gate_up, row, rows, column, width)
            up = load_block(gate_up, row, rows, features + column, width)
            silu = nl.ndarray((rows, width), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation(dst=silu, op=nl.silu, data=gate)
            y_tile = nl.ndarray((rows, width), dtype=gate_up.dtype, buffer=nl.sbuf)
            multiply(y_tile, silu, up, nisa.engine.vector)
            copy_block(y, y_tile, row, column, True)
    return y


@nki.jit
def swiglu_backward(dy: Tensor, gate_up: Tensor) -> Tensor:
    """Returns dgate|dup [..., 2F] like gate_up; dy [..., F]. Raises AssertionError."""
    num_rows, features = check_gate_up(gate_up)
    shape = replace_last(gate_up.shape, features)
    assert dy.shape == shape, f"dy must be {shape}, got {dy.shape}"
    dgate_up = nl.ndarray(gate_up.shape, dtype=gate_up.dtype, buffer=nl.shared_hbm)
    first, last = core_tiles(divide_up(num_rows, TILE))
    for tile in range(first, last):
        row = tile * TILE
        rows = rows_in_tile(tile, num_rows)
        for column in range(0, features, CHUNK):
            width = min(CHUNK, features - column)
            gate = load_block(gate_up, row, rows, column, width)
            up = load_block(gate_up, row, rows, features + column, width)
            dy_tile = load_block(dy, row, rows, column, width)
            dgate = nl.ndarray((rows, width), dtype=gate_up.dtype, buffer=nl.sbuf)
            dup = nl.ndarray((rows, width), dtype=gate_up.dtype, buffer=nl.sbuf)
            differentiate(dgate, dup, dy_tile, gate, up)
            copy_block(dgate_up, dgate, row, column, True)
            copy_block(dgate_up, dup, row, features + column, True)
    return dgate_up


def multiply(dst: Tensor, left: Tensor, right: Tensor, engine: Any) -> None:
    """dst = left * right, element by element."""
    nisa.tensor_tensor(dst=dst, data1=left, data2=right, op=nl.multiply, engine=engine)


def differentiate(dgate: Tensor, dup: Tensor, dy: Tensor, gate: Tensor, up: Tensor) -> None:
    """dgate and dup of one tile; GpSimd takes the product that VectorE does not wait for."""
    silu = nl.ndarray(gate.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=silu, op=nl.silu, data=gate)
    slope = nl.ndarray(gate.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=slope, op=nl.silu_dx, data=gate)
    dsilu = nl.ndarray(gate.shape, dtype=nl.float32, buffer=nl.sbuf)
    multiply(dsilu, dy, up, nisa.engine.gpsimd)
    multiply(dup, dy, silu, nisa.engine.vector)
    multiply(dgate, dsilu, slope, nisa.engine.vector)

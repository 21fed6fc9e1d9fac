"""The rotation of qk_norm_rope on tiles of tokens, forward and backward. Not a kernel.

A tile is [rows, heads, D]: tokens on the partitions. Tables are [rows, 1, D/2].
"""

from typing import Any

import nki.isa as nisa
import nki.language as nl

from .row_tiles import Tensor


def load_tokens(src_SBND: Tensor, row: int, rows: int, batch: int, head: int, count: int) -> Tensor:
    """Returns [rows, heads, D]: tokens [row, +rows), heads [head, +count) of one batch row."""
    tile = nl.ndarray((rows, count, src_SBND.shape[3]), dtype=src_SBND.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=src_SBND[row : row + rows, batch, head : head + count, :])
    return tile


def fold_weight(weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[rows, 4, D/2] fp32: w1 cos, w2 sin, w2 cos, w1 sin."""
    rows, _, half = cos.shape
    tables = nl.ndarray((rows, 4, half), dtype=nl.float32, buffer=nl.sbuf)
    first = weight[0:rows, 0:half]
    second = weight[0:rows, half : 2 * half]
    products = ((first, cos), (second, sin), (second, cos), (first, sin))
    for number in range(4):
        factor, table = products[number]
        nisa.tensor_tensor(
            dst=tables[:, number, :], data1=factor, data2=table[:, 0, :], op=nl.multiply
        )
    return tables


def rotate(y: Tensor, x: Tensor, r: Tensor, tables: Tensor) -> None:
    """y = rope(weight * x * r) for [rows, heads, D]; r [rows, heads]."""
    rows, heads, dim = x.shape
    half = dim // 2
    parts = nl.ndarray((rows, 4, heads, half), dtype=nl.float32, buffer=nl.sbuf)
    begins = (0, half, half, 0)  # the half of x that each table multiplies
    for head in range(heads):
        for number in range(4):
            begin = begins[number]
            nisa.scalar_tensor_tensor(
                dst=parts[:, number, head, :],
                data=x[:, head, begin : begin + half],
                op0=nl.multiply,
                operand0=r[:, head : head + 1],
                op1=nl.multiply,
                operand1=tables[:, number, :],
            )
    add_parts(y, parts, nl.subtract, nl.add)


def add_parts(y: Tensor, parts: Tensor, first_op: Any, second_op: Any) -> None:
    """y1 = parts0 first_op parts1, y2 = parts2 second_op parts3."""
    half = parts.shape[3]
    ops = (first_op, second_op)
    for number in range(2):
        begin = number * half
        nisa.tensor_tensor(
            dst=y[:, :, begin : begin + half],
            data1=parts[:, 2 * number, :, :],
            data2=parts[:, 2 * number + 1, :, :],
            op=ops[number],
        )


def turn_back(dy: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The transpose of the rotation: [rows, heads, D] fp32."""
    rows, heads, dim = dy.shape
    half = dim // 2
    parts = nl.ndarray((rows, 4, heads, half), dtype=nl.float32, buffer=nl.sbuf)
    factors = ((0, cos), (half, sin), (half, cos), (0, sin))
    for head in range(heads):
        for number in range(4):
            begin, table = factors[number]
            nisa.tensor_tensor(
                dst=parts[:, number, head, :],
                data1=dy[:, head, begin : begin + half],
                data2=table[:, 0, :],
                op=nl.multiply,
            )
    turned = nl.ndarray(dy.shape, dtype=nl.float32, buffer=nl.sbuf)
    add_parts(turned, parts, nl.add, nl.subtract)
    return turned

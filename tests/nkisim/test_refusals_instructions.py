"""What the language, element-wise and gen4 instructions and matmuls refuse, by whole message."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from .kernels import mm, nisa, nl, psum, refuses, sbuf, t

cmd = nisa.reduce_cmd

BF = "bfloat16"
FP8 = "float8_e5m2"
Case = tuple[str, Callable[[], Any], str, str]
"""(name, kernel, platform, the refusal)."""

LANGUAGE: list[Case] = [
    (
        "unknown argument",
        lambda: nl.add(t(4, 4), t(4, 4), mask=None),
        "trn2",
        "nl.add: no argument mask",
    ),
    ("number for a tile", lambda: nl.exp(1.0), "trn2", "nl.exp: `x` is float and must be a tile"),
    (
        "two numbers",
        lambda: nl.add(1, 2.0),
        "trn2",
        "nl.add: `x` is int, `y` is float; one must be a tile",
    ),
    (
        "different dimensions",
        lambda: nl.add(t(4, 4), t(4, 2, 2)),
        "trn2",
        "nl.add: shapes (4, 4) and (4, 2, 2) do not broadcast",
    ),
]

ELEMENTWISE: list[Case] = [
    (
        "memset with a tile",
        lambda: nisa.memset(sbuf((4, 4)), t(4, 1)),
        "trn2",
        "memset: `value` is a compile-time number",
    ),
    (
        "memset with text",
        lambda: nisa.memset(sbuf((4, 4)), "0"),
        "trn2",
        "memset: `value` is a compile-time number",
    ),
    (
        "memset of a packed type",
        lambda: nisa.memset(sbuf((4, 4), "float8_e5m2_x4"), 1.0),
        "trn3",
        "memset: `value` is 1.0; `dst` is float8_e5m2_x4, which can only be set to 0",
    ),
    (
        "bitvec op0",
        lambda: nisa.scalar_tensor_tensor(t(4, 4), t(4, 4), nl.bitwise_and, 1, nl.add, t(4, 4)),
        "trn2",
        "scalar_tensor_tensor: `op0` = nl.bitwise_and is a bitvec operator; use an arithmetic one",
    ),
    (
        "bitvec op1",
        lambda: nisa.scalar_tensor_tensor(t(4, 4), t(4, 4), nl.add, 1.0, nl.left_shift, t(4, 4)),
        "trn2",
        "scalar_tensor_tensor: `op1` = nl.left_shift is a bitvec operator; use an arithmetic one",
    ),
    (
        "tf32 bias",
        lambda: nisa.activation(t(4, 4), nl.exp, t(4, 4), bias=t(4, 1, dtype="tfloat32")),
        "trn2",
        "activation: `bias` cannot be tfloat32",
    ),
]

GEN4: list[Case] = [
    (
        "exponential resets nothing",
        lambda: nisa.exponential(t(4, 4), t(4, 4), reduce_cmd=cmd.reset),
        "trn3",
        "exponential: reduce_cmd.reset is not supported here",
    ),
    (
        "exponential of bf16 maxima",
        lambda: nisa.exponential(t(4, 4), t(4, 4), t(4, 1, dtype=BF)),
        "trn3",
        "exponential: `max_value` is bfloat16 and must be float32",
    ),
    (
        "exponential with an unused number",
        lambda: nisa.exponential(t(4, 4), t(4, 4), reduce_cmd=cmd.reduce, reduce_init=1.0),
        "trn3",
        "exponential: `reduce_init` goes with reduce_cmd.load_reduce",
    ),
    (
        "exponential with an unused tile",
        lambda: nisa.exponential(t(4, 4), t(4, 4), reduce_init=t(4, 1)),
        "trn3",
        "exponential: `reduce_init` goes with reduce_cmd.load_reduce",
    ),
    (
        "activate2 of an ALU operator",
        lambda: nisa.activate2(t(4, 4), nl.add, t(4, 4), 1.0, 0.0, nl.multiply, nl.add),
        "trn3",
        "activate2: `op` = nl.add is no activation function",
    ),
    (
        "activate2 folds with multiply",
        lambda: nisa.activate2(
            t(4, 4), nl.exp, t(4, 4), 1.0, 0.0, nl.multiply, nl.add, reduce_op=nl.multiply
        ),
        "trn3",
        "activate2: `reduce_op` = nl.multiply is not simulated",
    ),
    (
        "activate2 from a value",
        lambda: nisa.activate2(
            t(4, 4), nl.exp, t(4, 4), 1.0, 0.0, nl.multiply, nl.add, reduce_cmd=cmd.load_reduce
        ),
        "trn3",
        "activate2: the Scalar Engine does not support reduce_cmd.load_reduce",
    ),
    (
        "activate2 reduces without an operator",
        lambda: nisa.activate2(
            t(4, 4), nl.exp, t(4, 4), 1.0, 0.0, nl.multiply, nl.add, reduce_cmd=cmd.reduce
        ),
        "trn3",
        "activate2: reduce_cmd.reduce needs `reduce_op`",
    ),
]


def tiled(position: tuple[int, int], size: tuple[int, int]) -> Callable[[], None]:
    """A small matmul at this place of the systolic array."""
    return lambda: mm(psum((4, 4)), t(8, 4), t(8, 4), tile_position=position, tile_size=size)


def double_row(rows: tuple[int, ...], columns: tuple[int, ...]) -> Callable[[], None]:
    """A double_row matmul of fp8 operands of these shapes."""
    mode = nisa.matmul_perf_mode.double_row
    return lambda: mm(psum((4, 4)), t(*rows, dtype=FP8), t(*columns, dtype=FP8), perf_mode=mode)


MATMUL: list[Case] = [
    (
        "transpose casts to another type",
        lambda: mm(
            psum((4, 8), "float16"), t(8, 4, dtype=BF), t(8, 8, dtype=BF), is_transpose=True
        ),
        "trn2",
        "nc_matmul: `dst` is float16; a transpose keeps bfloat16",
    ),
    (
        "double_row stationary",
        double_row((8, 4), (8, 2, 4)),
        "trn2",
        "nc_matmul: `stationary` [8, 4]: double_row needs [K, 2, F]",
    ),
    (
        "double_row moving",
        double_row((8, 2, 4), (8, 4, 2)),
        "trn2",
        "nc_matmul: `moving` [8, 4, 2]: double_row needs [K, 2, F]",
    ),
    (
        "tile row between tiles",
        tiled((16, 0), (32, 128)),
        "trn2",
        "nc_matmul: tile_position (16, 0) is no multiple of tile_size (32, 128)",
    ),
    (
        "tile column between tiles",
        tiled((0, 32), (128, 64)),
        "trn2",
        "nc_matmul: tile_position (0, 32) is no multiple of tile_size (128, 64)",
    ),
    (
        "tile below the array",
        tiled((128, 0), (32, 128)),
        "trn2",
        "nc_matmul: tile (128, 0) + (32, 128) leaves the 128x128 array",
    ),
    (
        "tile above the array",
        tiled((-32, 0), (32, 128)),
        "trn2",
        "nc_matmul: tile (-32, 0) + (32, 128) leaves the 128x128 array",
    ),
    (
        "columns of no tile",
        tiled((0, 0), (128, 96)),
        "trn2",
        "nc_matmul: column tile 96; gen3 has tiles of 32, 64, 128",
    ),
    (
        "no columns",
        tiled((0, 0), (128, 0)),
        "trn2",
        "nc_matmul: column tile 0; gen3 has tiles of 32, 64, 128",
    ),
    (
        "result with gaps",
        lambda: mm(psum((4, 1024))[:, 0:1024:2], t(8, 4), t(8, 512)),
        "trn2",
        "nc_matmul: `dst` spans 4092 bytes of PSUM, a bank is 2048",
    ),
]

CASES = LANGUAGE + ELEMENTWISE + GEN4 + MATMUL


@pytest.mark.parametrize(
    ("body", "target", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(body: Callable[[], Any], target: str, words: str) -> None:
    refuses(body, target, re.escape(words))

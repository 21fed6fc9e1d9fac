"""Refused arithmetic of VectorE, ScalarE and GpSimd: one kernel for each limit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .kernels import nisa, nl, p, psum, refuses, sbuf, t

engine = nisa.engine
cmd = nisa.reduce_cmd

BF = "bfloat16"
Case = tuple[str, Callable[[], Any], str, str]
ELEMENTWISE: list[Case] = [
    (
        "bits of floats",
        lambda: nisa.tensor_tensor(t(4, 4), t(4, 4), t(4, 4), nl.bitwise_and),
        "trn2",
        "integer types",
    ),
    (
        "mixed classes",
        lambda: nisa.tensor_scalar(
            t(4, 4, dtype="int32"),
            t(4, 4, dtype="int32"),
            nl.bitwise_and,
            1,
            op1=nl.add,
            operand1=1,
        ),
        "trn2",
        "mix bitvec",
    ),
    (
        "bf16 scalar operand",
        lambda: nisa.tensor_scalar(t(4, 4), t(4, 4), nl.add, t(4, 1, dtype=BF)),
        "trn2",
        "float32",
    ),
    (
        "wide scalar operand",
        lambda: nisa.tensor_scalar(t(4, 4), t(4, 4), nl.add, t(4, 2)),
        "trn2",
        r"must be \[4, 1\]",
    ),
    (
        "power on vector",
        lambda: nisa.tensor_tensor(t(4, 4), t(4, 4), t(4, 4), nl.power, engine=engine.vector),
        "trn2",
        "GpSimd",
    ),
    (
        "GpSimd tensor_scalar",
        lambda: nisa.tensor_scalar(t(4, 4), t(4, 4), nl.add, 1.0, engine=engine.gpsimd),
        "trn2",
        "rsqrt",
    ),
    (
        "ScalarE operators",
        lambda: nisa.tensor_scalar(t(4, 4), t(4, 4), nl.subtract, 1.0, engine=engine.scalar),
        "trn2",
        "combine",
    ),
    (
        "activation as ALU op",
        lambda: nisa.tensor_tensor(t(4, 4), t(4, 4), t(4, 4), nl.exp),
        "trn2",
        "ScalarE",
    ),
    (
        "abs_max before gen4",
        lambda: nisa.tensor_tensor(t(4, 4), t(4, 4), t(4, 4), nl.abs_max),
        "trn2",
        "gen4",
    ),
    (
        "NumPy as operator",
        lambda: nisa.tensor_tensor(t(4, 4), t(4, 4), t(4, 4), np.add),
        "trn2",
        "no NKI operator",
    ),
    (
        "ALU op as activation",
        lambda: nisa.activation(t(4, 4), nl.add, t(4, 4)),
        "trn2",
        "no activation function",
    ),
    (
        "constant bias on gen2",
        lambda: nisa.activation(t(4, 4), nl.exp, t(4, 4), bias=1.0),
        "trn1",
        "`bias`",
    ),
    (
        "bf16 scale",
        lambda: nisa.activation(t(4, 4), nl.exp, t(4, 4), scale=t(4, 1, dtype=BF)),
        "trn2",
        "`scale`",
    ),
    (
        "reduce with maximum",
        lambda: nisa.activation_reduce(t(4, 4), nl.exp, t(4, 4), nl.maximum, t(4, 1)),
        "trn2",
        "nl.add",
    ),
    (
        "load_reduce on ScalarE",
        lambda: nisa.activation(
            t(4, 4), nl.exp, t(4, 4), reduce_op=nl.add, reduce_cmd=cmd.load_reduce
        ),
        "trn2",
        "load_reduce",
    ),
    (
        "reduce without an op",
        lambda: nisa.activation(t(4, 4), nl.exp, t(4, 4), reduce_cmd=cmd.reduce),
        "trn2",
        "reduce_op",
    ),
]

REDUCTIONS: list[Case] = [
    (
        "partition axis",
        lambda: nisa.tensor_reduce(t(4, 4), nl.add, t(4, 4), 0),
        "trn2",
        "never the partition",
    ),
    (
        "inner gap",
        lambda: nisa.tensor_reduce(t(4, 3), nl.add, t(4, 2, 3), 1),
        "trn2",
        "the last ones",
    ),
    (
        "result size",
        lambda: nisa.tensor_reduce(t(4, 2), nl.add, t(4, 4), 1),
        "trn2",
        "2 elements per partition, not 1",
    ),
    (
        "no reduction op",
        lambda: nisa.tensor_reduce(t(4, 1), nl.divide, t(4, 4), 1),
        "trn2",
        "not a reduction",
    ),
    (
        "reverse0",
        lambda: nisa.tensor_scalar_reduce(t(4, 4), t(4, 4), nl.add, 1.0, nl.add, reverse0=True),
        "trn2",
        "reverse0",
    ),
    (
        "init without load",
        lambda: nisa.tensor_scalar_reduce(t(4, 4), t(4, 4), nl.add, 1.0, nl.add, reduce_init=0.0),
        "trn2",
        "load_reduce",
    ),
    (
        "32-bit cumulative",
        lambda: nisa.tensor_scalar_cumulative(
            t(4, 4, dtype="int32"), t(4, 4, dtype="int32"), nl.add, nl.add, 1.0
        ),
        "trn2",
        "int32",
    ),
    (
        "scan in PSUM",
        lambda: nisa.tensor_tensor_scan(t(4, 4), p(4, 4), p(4, 4), 0.0, nl.add, nl.add),
        "trn2",
        "both in PSUM",
    ),
    ("bn_stats of 513", lambda: nisa.bn_stats(t(4, 6), t(4, 513)), "trn2", "512"),
    ("max8 of 7", lambda: nisa.max8(t(4, 8), t(4, 7)), "trn2", "8 to 16384"),
]

SELECTS: list[Case] = [
    ("iota in PSUM", lambda: nisa.iota(psum((4, 4)), [[1, 4]]), "trn2", "PSUM"),
    ("iota count", lambda: nisa.iota(sbuf((4, 4)), [[1, 5]]), "trn2", "makes 5 values"),
    ("iota of five dimensions", lambda: nisa.iota(sbuf((4, 1)), [[1, 1]] * 5), "trn2", "1 to 4"),
    (
        "affine_select from PSUM",
        lambda: nisa.affine_select(t(4, 4), [[1, 4]], 0, p(4, 4), 0.0),
        "trn2",
        "PSUM",
    ),
    (
        "affine_select operator",
        lambda: nisa.affine_select(t(4, 4), [[1, 4]], 0, t(4, 4), 0.0, cmp_op=nl.add),
        "trn2",
        "comparison",
    ),
    (
        "range_select on gen2",
        lambda: nisa.range_select(t(4, 4), t(4, 4), nl.less, nl.less, t(4, 1), t(4, 1)),
        "trn1",
        "gen3",
    ),
    (
        "range_select fill",
        lambda: nisa.range_select(
            t(4, 4), t(4, 4), nl.less, nl.less, t(4, 1), t(4, 1), on_false_value=0.0
        ),
        "trn2",
        "on_false_value",
    ),
    (
        "range_select bounds",
        lambda: nisa.range_select(t(4, 4), t(4, 4), nl.less, nl.less, t(4, 1, dtype=BF), t(4, 1)),
        "trn2",
        "`bound0`",
    ),
    (
        "range_select not_equal",
        lambda: nisa.range_select(t(4, 4), t(4, 4), nl.not_equal, nl.less, t(4, 1), t(4, 1)),
        "trn2",
        "`comp_op0`",
    ),
    (
        "range beyond 2**24",
        lambda: nisa.range_select(
            t(4, 4), t(4, 4), nl.less, nl.less, t(4, 1), t(4, 1), range_start=2**24
        ),
        "trn2",
        "2..24",
    ),
    (
        "float predicate",
        lambda: nisa.select_reduce(t(4, 4), t(4, 4), t(4, 4), 0.0),
        "trn2",
        "`predicate`",
    ),
    (
        "predicated cast",
        lambda: nisa.tensor_copy_predicated(t(4, 4), t(4, 4, dtype=BF), t(4, 4, dtype="uint8")),
        "trn2",
        "equal types",
    ),
    (
        "shuffle mask",
        lambda: nisa.nc_stream_shuffle(t(32, 4), t(32, 4), [0] * 31),
        "trn2",
        "32 entries",
    ),
]

CASES = ELEMENTWISE + REDUCTIONS + SELECTS


@pytest.mark.parametrize(
    ("body", "target", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(body: Callable[[], Any], target: str, words: str) -> None:
    refuses(body, target, words)

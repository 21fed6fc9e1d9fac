"""Refused reductions, selections and statistics of VectorE and GpSimd, by their whole message."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from .kernels import nisa, nl, refuses, t

cmd = nisa.reduce_cmd

I32 = "int32"
U8 = "uint8"
Case = tuple[str, Callable[[], Any], str, str]
"""(name, kernel, platform, the refusal)."""

REDUCE: list[Case] = [
    (
        "bits of floats",
        lambda: nisa.tensor_reduce(t(4, 1), nl.bitwise_or, t(4, 4), 1),
        "trn2",
        "tensor_reduce: `data` is float32, `dst` is float32; nl.bitwise_or reduces integer types",
    ),
    (
        "bits into floats",
        lambda: nisa.tensor_reduce(t(4, 1), nl.bitwise_or, t(4, 4, dtype=I32), 1),
        "trn2",
        "tensor_reduce: `data` is int32, `dst` is float32; nl.bitwise_or reduces integer types",
    ),
    (
        "negated bits",
        lambda: nisa.tensor_reduce(
            t(4, 1, dtype=I32), nl.bitwise_or, t(4, 4, dtype=I32), 1, negate=True
        ),
        "trn2",
        "tensor_reduce: `negate` works with arithmetic operators only",
    ),
    (
        "partitions to two rows",
        lambda: nisa.tensor_partition_reduce(t(2, 4), nl.add, t(4, 4)),
        "trn2",
        "tensor_partition_reduce: `dst` has shape [2, 4], not [1, 4]",
    ),
    (
        "partitions to a short row",
        lambda: nisa.tensor_partition_reduce(t(1, 3), nl.add, t(4, 4)),
        "trn2",
        "tensor_partition_reduce: `dst` has shape [1, 3], not [1, 4]",
    ),
    (
        "bitvec before a sum",
        lambda: nisa.tensor_scalar_reduce(t(4, 4), t(4, 4), nl.bitwise_and, 1, nl.add),
        "trn2",
        "tensor_scalar_reduce: `op0` = nl.bitwise_and is a bitvec operator; use an arithmetic one",
    ),
    (
        "tensor_scalar_reduce without a reduction",
        lambda: nisa.tensor_scalar_reduce(
            t(4, 4), t(4, 4), nl.add, 1.0, nl.add, reduce_cmd=cmd.idle
        ),
        "trn2",
        "tensor_scalar_reduce: reduce_cmd.idle is not supported here",
    ),
    (
        "unary step",
        lambda: nisa.tensor_scalar_cumulative(t(4, 4), t(4, 4), nl.abs, nl.add, 0.0),
        "trn2",
        "tensor_scalar_cumulative: `op0` = nl.abs must be an arithmetic operator",
    ),
    (
        "cumulative of no result",
        lambda: nisa.tensor_scalar_cumulative(
            t(4, 4), t(4, 4), nl.add, nl.add, 0.0, reduce_cmd=cmd.idle
        ),
        "trn2",
        "tensor_scalar_cumulative: reduce_cmd.idle is not supported here",
    ),
    (
        "cumulative from nothing",
        lambda: nisa.tensor_scalar_cumulative(
            t(4, 4), t(4, 4), nl.add, nl.add, 0.0, reduce_cmd=cmd.load_reduce
        ),
        "trn2",
        "tensor_scalar_cumulative: reduce_cmd.load_reduce needs `imm1`",
    ),
    (
        "bitvec scan",
        lambda: nisa.tensor_tensor_scan(t(4, 4), t(4, 4), t(4, 4), 0.0, nl.bitwise_or, nl.add),
        "trn2",
        "tensor_tensor_scan: `op0` = nl.bitwise_or must be a binary arithmetic operator",
    ),
    (
        "unary scan",
        lambda: nisa.tensor_tensor_scan(t(4, 4), t(4, 4), t(4, 4), 0.0, nl.add, nl.square),
        "trn2",
        "tensor_tensor_scan: `op1` = nl.square must be a binary arithmetic operator",
    ),
]


def in_range(**changed: Any) -> None:
    """A range_select with one argument that is not as it should be."""
    usual: dict[str, Any] = {
        "dst": t(4, 4), "on_true_tile": t(4, 4), "comp_op0": nl.greater_equal,
        "comp_op1": nl.less, "bound0": t(4, 1), "bound1": t(4, 1),
    }  # fmt: skip
    nisa.range_select(**usual | changed)


def selected(**changed: Any) -> None:
    """A select_reduce with one argument that is not as it should be."""
    usual: dict[str, Any] = {
        "dst": t(4, 4), "predicate": t(4, 4, dtype=U8), "on_true": t(4, 4), "on_false": 0.0,
    }  # fmt: skip
    nisa.select_reduce(**usual | changed)


SELECT: list[Case] = [
    (
        "affine_select of a column",
        lambda: nisa.affine_select(t(4, 4), [[1, 4]], 0, t(4, 4), t(4, 1)),
        "trn2",
        "affine_select: `on_false_value` is a compile-time number",
    ),
    (
        "range_select sums",
        lambda: in_range(reduce_op=nl.add),
        "trn2",
        "range_select: `reduce_op` = nl.add; range_select reduces with nl.maximum",
    ),
    (
        "range_select of integers",
        lambda: in_range(on_true_tile=t(4, 4, dtype=I32)),
        "trn2",
        "range_select: `on_true_tile` is int32 and must be a float type",
    ),
    (
        "range_select from nothing",
        lambda: in_range(reduce_cmd=cmd.load_reduce),
        "trn2",
        "range_select: reduce_cmd.load_reduce has no value to load here",
    ),
    (
        "select_reduce of wide integers",
        lambda: selected(on_true=t(4, 4, dtype=I32)),
        "trn2",
        "select_reduce: `on_true` is int32, which it does not support",
    ),
    (
        "select_reduce by wide integers",
        lambda: selected(predicate=t(4, 4, dtype=I32)),
        "trn2",
        "select_reduce: `predicate` is int32; use an 8- or 16-bit integer",
    ),
    (
        "select_reduce sums",
        lambda: selected(reduce_op=nl.add),
        "trn2",
        "select_reduce: `reduce_op` = nl.add; it reduces with nl.maximum",
    ),
    (
        "select_reduce from nothing",
        lambda: selected(reduce_cmd=cmd.load_reduce),
        "trn2",
        "select_reduce: reduce_cmd.load_reduce has no value to load here",
    ),
    (
        "signed predicate",
        lambda: nisa.tensor_copy_predicated(t(4, 4), 1.0, t(4, 4, dtype="int8")),
        "trn2",
        "tensor_copy_predicated: `predicate` is int8; use an unsigned integer",
    ),
]

STATISTICS: list[Case] = [
    (
        "bn_stats result",
        lambda: nisa.bn_stats(t(4, 3), t(4, 8)),
        "trn2",
        "bn_stats: `dst` has 3 elements per partition, not 6",
    ),
    (
        "bn_aggr of no triples",
        lambda: nisa.bn_aggr(t(4, 2), t(4, 8)),
        "trn2",
        "bn_aggr: `data` has 8 elements per partition (a multiple of 3), `dst` has 2 (2)",
    ),
    (
        "bn_aggr result",
        lambda: nisa.bn_aggr(t(4, 3), t(4, 6)),
        "trn2",
        "bn_aggr: `data` has 6 elements per partition (a multiple of 3), `dst` has 3 (2)",
    ),
    (
        "max8 into nine",
        lambda: nisa.max8(t(4, 9), t(4, 16)),
        "trn2",
        "max8: `dst` has 9 elements per partition, not 8",
    ),
    (
        "seven values to find",
        lambda: nisa.nc_find_index8(t(4, 8, dtype="uint32"), t(4, 16), t(4, 7)),
        "trn2",
        "nc_find_index8: `vals` has 7 elements per partition, not 8",
    ),
    (
        "signed positions",
        lambda: nisa.nc_find_index8(t(4, 8, dtype=I32), t(4, 16), t(4, 8)),
        "trn2",
        "nc_find_index8: `dst` is int32; use uint16 or uint32",
    ),
]

CASES = REDUCE + SELECT + STATISTICS


@pytest.mark.parametrize(
    ("body", "target", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(body: Callable[[], Any], target: str, words: str) -> None:
    refuses(body, target, re.escape(words))

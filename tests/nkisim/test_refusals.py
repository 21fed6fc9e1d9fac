"""One kernel for each limit of the hardware; the refusal names instruction, operand and line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ndtrain.nkisim.errors import ApiError, CapacityError, HardwareLimit, NkiSimError

from .kernels import hbm, nisa, nl, psum, run, sbuf

engine, cmd = nisa.engine, nisa.reduce_cmd


def t(*shape: int, dtype: Any = "float32", **how: Any) -> Any:
    """A defined SBUF tile."""
    tile = sbuf(shape, dtype, **how)
    nisa.memset(tile, 0)
    return tile


def p(*shape: int, dtype: Any = "float32", **how: Any) -> Any:
    """A defined PSUM tile."""
    tile = psum(shape, dtype, **how)
    nisa.memset(tile, 0)
    return tile


def mm(dst: Any, a: Any, b: Any, **how: Any) -> None:
    nisa.nc_matmul(dst, a, b, **how)


BF, F32 = "bfloat16", "float32"
Case = tuple[str, Callable[[], Any], str, str]
ALLOCATION: list[Case] = [
    ("129 partitions", lambda: sbuf((129, 4)), "trn2", "partition dimension 129"),
    ("row beyond SBUF", lambda: sbuf((1, 60000)), "trn2", "240000 bytes per partition"),
    ("row beyond gen2's SBUF", lambda: sbuf((1, 50000)), "trn1", "196608 on gen2"),
    ("row beyond PSUM", lambda: psum((1, 4097)), "trn2", "16384"),
    ("six dimensions", lambda: sbuf((1,) * 6), "trn2", "limit is 5"),
    ("zero size", lambda: sbuf((4, 0)), "trn2", "positive"),
    ("address on HBM", lambda: hbm((4, 4), address=(0, 0)), "trn2", "no address"),
    ("address beyond SBUF", lambda: sbuf((4, 8), address=(0, 224 * 1024)), "trn2", "ends at"),
    ("unaligned address", lambda: sbuf((4, 8), address=(0, 2)), "trn2", "multiple of 4"),
    ("address inside a bank", lambda: psum((4, 8), address=(0, 64)), "trn2", "start of a bank"),
    ("partitions beyond 128", lambda: sbuf((64, 8), address=(96, 0)), "trn2", "96..160"),
    ("OCP fp8 before gen4", lambda: sbuf((4, 8), "float8_e4m3fn"), "trn2", "float8_e4m3fn"),
    ("float64", lambda: sbuf((4, 8), np.float64), "trn2", "float64"),
    ("a string as buffer", lambda: nl.ndarray((4, 8), F32, buffer="sbuf"), "trn2", "`buffer`"),
]
OPERANDS: list[Case] = [
    ("start partition 16", lambda: nisa.memset(sbuf((64, 4))[16:32], 0), "trn2", "partition 16"),
    (
        "64 partitions from 32",
        lambda: nisa.memset(sbuf((128, 4))[32:96], 0),
        "trn2",
        "starts at partition 32",
    ),
    (
        "address at partition 8",
        lambda: nisa.memset(sbuf((8, 4), address=(8, 0)), 0),
        "trn2",
        "partition 8",
    ),
    (
        "every other partition",
        lambda: nisa.memset(sbuf((128, 4))[0:64:2], 0),
        "trn2",
        "partition step of 2",
    ),
    ("engine on HBM", lambda: nisa.memset(hbm((4, 4)), 0), "trn2", "`dst` is in shared_hbm"),
    (
        "GpSimd on PSUM",
        lambda: nisa.memset(psum((4, 4)), 0, engine=engine.gpsimd),
        "trn2",
        "GpSimd cannot access",
    ),
    ("DMA on PSUM", lambda: nisa.dma_copy(hbm((4, 4)), p(4, 4)), "trn2", "PSUM"),
    (
        "both inputs in PSUM",
        lambda: nisa.tensor_tensor(t(4, 4), p(4, 4), p(4, 4), nl.add),
        "trn2",
        "both in PSUM",
    ),
    ("partition counts", lambda: nisa.tensor_copy(t(4, 4), t(8, 4)), "trn2", "8 partitions|4 part"),
    ("element counts", lambda: nisa.tensor_copy(t(4, 4), t(4, 5)), "trn2", "per partition"),
    (
        "no broadcast",
        lambda: nisa.tensor_tensor(t(4, 4), t(4, 4), t(4, 1), nl.add),
        "trn2",
        "do not broadcast",
    ),
    (
        "wrong engine",
        lambda: nisa.memset(t(4, 4), 0, engine=engine.tensor),
        "trn2",
        "engine.tensor",
    ),
    ("an integer as engine", lambda: nisa.memset(t(4, 4), 0, engine=5), "trn2", "`engine` is 5"),
    (
        "scalar copy on gen2",
        lambda: nisa.tensor_copy(t(4, 4), t(4, 4), engine=engine.scalar),
        "trn1",
        "gen3",
    ),
    (
        "float into an integer memset",
        lambda: nisa.memset(t(4, 4, dtype="int32"), 2.0),
        "trn2",
        "no integer",
    ),
]
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
MATMUL: list[Case] = [
    ("stationary in PSUM", lambda: mm(psum((4, 4)), p(8, 4), t(8, 4)), "trn2", "`stationary`"),
    ("moving in PSUM", lambda: mm(psum((4, 4)), t(8, 4), p(8, 4)), "trn2", "`moving`"),
    ("result in SBUF", lambda: mm(sbuf((4, 4)), t(8, 4), t(8, 4)), "trn2", "`dst` is in SBUF"),
    ("stationary of 129", lambda: mm(psum((128, 4)), t(8, 129), t(8, 4)), "trn2", "limit is 128"),
    ("moving of 513", lambda: mm(psum((4, 513)), t(8, 4), t(8, 513)), "trn2", "limit is 512"),
    ("contraction", lambda: mm(psum((4, 4)), t(8, 4), t(16, 4)), "trn2", "contraction differs"),
    ("result shape", lambda: mm(psum((4, 5)), t(8, 4), t(8, 4)), "trn2", r"must be \[4, 4\]"),
    (
        "bf16 result on gen3",
        lambda: mm(psum((4, 4), BF), t(8, 4), t(8, 4)),
        "trn2",
        "gen3 writes float32",
    ),
    (
        "fp32 with bf16",
        lambda: mm(psum((4, 4)), t(8, 4), t(8, 4, dtype=BF)),
        "trn2",
        "pair only with each other",
    ),
    (
        "integers",
        lambda: mm(psum((4, 4)), t(8, 4, dtype="int8"), t(8, 4, dtype="int8")),
        "trn2",
        "`stationary` is int8",
    ),
    (
        "across banks",
        lambda: mm(psum((4, 1024))[:, 256:768], t(8, 4), t(8, 512)),
        "trn2",
        "crosses a bank",
    ),
    (
        "mixed fp8",
        lambda: mm(psum((4, 4)), t(8, 4, dtype="float8_e4m3"), t(8, 4, dtype="float8_e4m3fn")),
        "trn3",
        "cannot be mixed",
    ),
    (
        "double_row of bf16",
        lambda: mm(
            psum((4, 4)),
            t(8, 2, 4, dtype=BF),
            t(8, 2, 4, dtype=BF),
            perf_mode=nisa.matmul_perf_mode.double_row,
        ),
        "trn2",
        "fp8",
    ),
    (
        "double_row on gen2",
        lambda: mm(
            psum((4, 4)),
            t(8, 2, 4, dtype="float8_e5m2"),
            t(8, 2, 4, dtype="float8_e5m2"),
            perf_mode=nisa.matmul_perf_mode.double_row,
        ),
        "trn1",
        "gen3",
    ),
    (
        "row tile of 32 on gen2",
        lambda: mm(psum((4, 4)), t(8, 4), t(8, 4), tile_position=(32, 0), tile_size=(32, 128)),
        "trn1",
        "row tile 32",
    ),
    (
        "tile without position",
        lambda: mm(psum((4, 4)), t(8, 4), t(8, 4), tile_size=(32, 128)),
        "trn2",
        "go together",
    ),
    (
        "operand beyond its tile",
        lambda: mm(psum((4, 4)), t(64, 4), t(64, 4), tile_position=(0, 0), tile_size=(32, 128)),
        "trn2",
        "exceeds tile_size",
    ),
    (
        "transpose type",
        lambda: nisa.nc_transpose(psum((4, 8)), t(8, 4, dtype=BF)),
        "trn2",
        "equal types",
    ),
    (
        "transpose of 129",
        lambda: nisa.nc_transpose(psum((128, 8)), t(8, 129)),
        "trn2",
        "up to 128 x 128",
    ),
    (
        "vector transpose of 64",
        lambda: nisa.nc_transpose(t(64, 8), t(8, 64)),
        "trn2",
        "up to 32 x 32",
    ),
    ("transpose shape", lambda: nisa.nc_transpose(psum((8, 4)), t(8, 4)), "trn2", r"\[4, 8\]"),
]
DMA: list[Case] = [
    ("element counts", lambda: nisa.dma_copy(hbm((4, 4)), t(4, 5)), "trn2", "20"),
    (
        "hwdge on gen2",
        lambda: nisa.dma_copy(hbm((4, 4)), t(4, 4), dge_mode=nisa.dge_mode.hwdge),
        "trn1",
        "gen3",
    ),
    (
        "hwdge cast",
        lambda: nisa.dma_copy(hbm((4, 4), BF), t(4, 4), dge_mode=nisa.dge_mode.hwdge),
        "trn2",
        "casts nothing",
    ),
    (
        "an integer as mode",
        lambda: nisa.dma_copy(hbm((4, 4)), t(4, 4), dge_mode=2),
        "trn2",
        "`dge_mode` is 2",
    ),
    (
        "priority before gen4",
        lambda: nisa.dma_copy(hbm((4, 4)), t(4, 4), priority=1),
        "trn2",
        "gen4",
    ),
    (
        "transpose of bytes",
        lambda: nisa.dma_transpose(sbuf((4, 8), "uint8"), t(8, 4, dtype="uint8")),
        "trn2",
        "2 or 4 bytes",
    ),
    ("transpose shape", lambda: nisa.dma_transpose(sbuf((8, 4)), t(8, 4)), "trn2", r"\[4, 8\]"),
    (
        "transpose axes",
        lambda: nisa.dma_transpose(sbuf((4, 2, 8)), t(8, 2, 4), axes=(0, 2, 1)),
        "trn2",
        "`axes`",
    ),
    (
        "hwdge transpose rows",
        lambda: nisa.dma_transpose(
            sbuf((4, 8), BF), t(8, 4, dtype=BF), dge_mode=nisa.dge_mode.hwdge
        ),
        "trn2",
        "16 rows",
    ),
    (
        "dma_compute maximum",
        lambda: nisa.dma_compute(hbm((4, 4)), [t(4, 4)], nl.maximum),
        "trn2",
        "the DMA adds",
    ),
    ("gather in SBUF", lambda: t(4, 4).ap([[4, 4], [1, 4]], vector_offset=t(4, 1)), "trn2", "HBM"),
    (
        "core_barrier on one core",
        lambda: nisa.core_barrier(hbm((4, 4)), (0, 1)),
        "trn2",
        "two cores",
    ),
    ("core_barrier on gen2", lambda: nisa.core_barrier(hbm((4, 4)), (0, 1)), "trn1", "gen3"),
    ("sendrecv on one core", lambda: nisa.sendrecv(t(4, 4), t(4, 4), 0, 0, 0), "trn2", "LNC2"),
    (
        "register of a tile",
        lambda: nisa.register_load(nisa.register_alloc(), t(4, 4)),
        "trn2",
        "one element",
    ),
]
CASES = ALLOCATION + OPERANDS + ELEMENTWISE + REDUCTIONS + SELECTS + MATMUL + DMA


@pytest.mark.parametrize(
    ("body", "target", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(body: Callable[[], Any], target: str, words: str) -> None:
    with pytest.raises((HardwareLimit, CapacityError, ApiError), match=words) as caught:
        run(body, target=target)
    assert "/tests/nkisim/" in caught.value.where


def test_the_error_names_instruction_operand_limit_and_line() -> None:
    with pytest.raises(NkiSimError) as caught:
        run(lambda: mm(psum((4, 513)), t(8, 4), t(8, 513)))
    text = str(caught.value)
    assert "nc_matmul: `moving` has 513 free elements; the limit is 512" in text
    assert "test_refusals.py:" in text


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_the_limits_themselves_are_allowed(target: str) -> None:
    def kernel() -> None:
        mm(psum((128, 512)), t(128, 128, dtype=BF), t(128, 512, dtype=BF))
        nisa.nc_transpose(psum((128, 128), BF), t(128, 128, dtype=BF))
        for start in (0, 32, 64, 96):
            nisa.memset(sbuf((128, 4))[start : start + 32], 0)
        nisa.memset(sbuf((128, 4))[64:128], 0)

    run(kernel, target=target)


def test_gen4_moves_more_columns_and_writes_bf16() -> None:
    def kernel() -> None:
        mm(psum((4, 4096)), t(8, 4), t(8, 4096))
        mm(psum((4, 8192), BF), t(8, 4, dtype=BF), t(8, 8192, dtype=BF))

    run(kernel, target="trn3")

"""Refused allocations, operands and transfers: one kernel for each limit of the hardware."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .kernels import hbm, nisa, nl, p, psum, refuses, sbuf, t

engine = nisa.engine

BF = "bfloat16"
F32 = "float32"
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

CASES = ALLOCATION + OPERANDS + DMA


@pytest.mark.parametrize(
    ("body", "target", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(body: Callable[[], Any], target: str, words: str) -> None:
    refuses(body, target, words)

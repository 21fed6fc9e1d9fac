"""Refused matmuls and transposes, and what is just allowed."""

from collections.abc import Callable
from typing import Any

import pytest

from ndtrain.nkisim.errors import NkiSimError

from .kernels import mm, nisa, p, psum, refuses, run, sbuf, t

BF = "bfloat16"
Case = tuple[str, Callable[[], Any], str, str]
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

CASES = MATMUL


@pytest.mark.parametrize(
    ("body", "target", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(body: Callable[[], Any], target: str, words: str) -> None:
    refuses(body, target, words)


def test_the_error_names_instruction_operand_limit_and_line() -> None:
    with pytest.raises(NkiSimError) as caught:
        run(lambda: nisa.nc_matmul(psum((4, 513)), t(8, 4), t(8, 513)))
    text = str(caught.value)
    assert "nc_matmul: `moving` has 513 free elements; the limit is 512" in text
    assert "test_refusals_matmul.py:" in text


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

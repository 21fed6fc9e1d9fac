"""Copies, tensor_tensor, tensor_scalar and scalar_tensor_tensor against NumPy."""

from typing import Any

import numpy as np
import pytest

from .kernels import BF16, apply, hbm, load, nisa, nl, normal, psum, run, sbuf, store

A, B = normal(64, 48, seed=1), normal(64, 48, seed=2)
COLUMN = normal(64, 1, seed=3)
BINARY = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide,
    "maximum": np.maximum, "minimum": np.minimum, "less": np.less, "greater_equal":
    np.greater_equal, "equal": np.equal, "not_equal": np.not_equal, "logical_and": np.logical_and,
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
def test_tensor_tensor(name: str) -> None:
    got = apply(lambda d, x, y: nisa.tensor_tensor(d, x, y, getattr(nl, name)), A, B)
    np.testing.assert_array_equal(got, BINARY[name](A, B).astype(np.float32))


def test_power_runs_on_gpsimd() -> None:
    run_of = run(_power, np.abs(A))
    assert run_of.stream.counts()["tensor_tensor"] == 1
    assert [i.engine for i in run_of.stream if i.opcode == "tensor_tensor"] == ["gpsimd"]
    np.testing.assert_allclose(run_of.outputs, np.abs(A) ** np.abs(A), rtol=1e-6)


def _power(x: Any) -> Any:
    tile = load(x)
    nisa.tensor_tensor(tile, tile, tile, nl.power)
    return store(tile)


def test_32_bit_integers_are_exact_on_gpsimd_and_not_on_vector() -> None:
    big = np.full((32, 4), 2**24 + 1, np.int32)
    one = np.ones((32, 4), np.int32)

    def add(engine: Any) -> np.ndarray:
        return apply(lambda d, x, y: nisa.tensor_tensor(d, x, y, nl.add, engine=engine), big, one,
                     dtype="int32")  # fmt: skip

    np.testing.assert_array_equal(add(nisa.engine.unknown), big + 1)
    assert (add(nisa.engine.vector) != big + 1).all()


@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor"])
def test_bit_operators_work_on_the_bits(name: str) -> None:
    x = np.random.default_rng(0).integers(0, 2**32, (32, 8)).astype(np.uint32)
    y = np.random.default_rng(1).integers(0, 2**32, (32, 8)).astype(np.uint32)
    got = apply(lambda d, a, b: nisa.tensor_tensor(d, a, b, getattr(nl, name)), x, y,
                dtype="uint32")  # fmt: skip
    np.testing.assert_array_equal(got, getattr(np, name)(x, y))


def test_shifts_are_logical() -> None:
    x = np.full((32, 4), -8, np.int32)
    got = apply(lambda d, a: nisa.tensor_scalar(d, a, nl.right_shift, 1), x, dtype="int32")
    np.testing.assert_array_equal(got, np.full((32, 4), 2**31 - 4, np.int32))


def test_tensor_scalar_applies_two_operators_in_order() -> None:
    got = apply(
        lambda d, x, c: nisa.tensor_scalar(d, x, nl.multiply, c, op1=nl.add, operand1=2.0),
        A, COLUMN,
    )  # fmt: skip
    np.testing.assert_array_equal(got, A * COLUMN + np.float32(2))


def test_reverse_swaps_the_operands_of_each_operator() -> None:
    got = apply(
        lambda d, x: nisa.tensor_scalar(
            d, x, nl.subtract, 1.0, reverse0=True, op1=nl.divide, operand1=2.0, reverse1=True
        ),
        A,
    )
    np.testing.assert_array_equal(got, np.float32(2) / (np.float32(1) - A))


def test_a_low_precision_input_is_widened_first() -> None:
    x = A.astype(BF16)
    got = apply(lambda d, a: nisa.tensor_scalar(d, a, nl.add, 2.0**-12), x)
    np.testing.assert_array_equal(got, x.astype(np.float32) + np.float32(2.0**-12))


def test_scalar_tensor_tensor() -> None:
    got = apply(
        lambda d, x, y, c: nisa.scalar_tensor_tensor(d, x, nl.subtract, c, nl.multiply, y),
        A, B, COLUMN,
    )  # fmt: skip
    np.testing.assert_array_equal(got, (A - COLUMN) * B)


def test_shapes_may_differ_as_long_as_partitions_hold_equal_counts() -> None:
    got = apply(lambda d, x: nisa.tensor_copy(d, x), normal(64, 6, 8), shape=(64, 48))
    np.testing.assert_array_equal(got, normal(64, 6, 8).reshape(64, 48))


def test_an_operand_may_overlap_the_result() -> None:
    def kernel(x: Any) -> Any:
        tile = load(x)
        nisa.tensor_copy(dst=tile[:, 1:], src=tile[:, :-1])
        return store(tile)

    wanted = A.copy()
    wanted[:, 1:] = A[:, :-1]
    np.testing.assert_array_equal(run(kernel, A).outputs, wanted)


def test_memset_and_reciprocal() -> None:
    def kernel() -> Any:
        tile = psum((32, 16))
        nisa.memset(tile, 4.0)
        nisa.reciprocal(tile, tile)
        return store(tile)

    np.testing.assert_array_equal(run(kernel).outputs, np.full((32, 16), 0.25, np.float32))


def test_memset_of_a_large_integer_is_exact() -> None:
    got = apply(lambda d, x: nisa.memset(d, 2**31 - 1), np.zeros((32, 2), np.int32), dtype="int32")
    np.testing.assert_array_equal(got, np.full((32, 2), 2**31 - 1))


def test_high_precision_mode_keeps_what_bf16_would_drop() -> None:
    from ndtrain import nkisim

    def kernel(x: Any) -> Any:
        tile = sbuf(x.shape, nl.bfloat16)
        nisa.dma_copy(dst=tile, src=x)
        out = hbm(x.shape)
        nisa.dma_copy(dst=out, src=tile)
        return out

    x = np.full((32, 4), 1 + 2**-15, np.float32)
    exact = run(kernel, x).outputs
    wide = run(kernel, x, options=nkisim.Options(precise=False, check_python=False)).outputs
    np.testing.assert_array_equal(exact, np.ones_like(x))
    np.testing.assert_array_equal(wide, x)

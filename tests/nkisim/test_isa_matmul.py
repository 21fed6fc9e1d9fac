"""Matmul, accumulation in PSUM per region, transposes."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ndtrain.nkisim.errors import AccumulationError

from .kernels import BF16, hbm, load, nisa, nl, normal, psum, run, sbuf, store

A, B = normal(128, 64, dtype=BF16), normal(128, 96, seed=1, dtype=BF16)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32)


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_the_stationary_operand_is_transposed(target: str) -> None:
    def kernel(a: Any, b: Any) -> Any:
        out = psum((64, 96))
        nisa.nc_matmul(out, load(a), load(b))
        return store(out)

    got = run(kernel, A, B, target=target).outputs
    np.testing.assert_allclose(got, wide(A).T @ wide(B), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("flags", [(None, None), (False, True), (None, True)])
def test_matmuls_accumulate_into_one_region(flags: tuple[Any, Any]) -> None:
    def kernel(a: Any, b: Any) -> Any:
        x, y, out = load(a), load(b), psum((64, 96))
        for flag in flags:
            nisa.nc_matmul(out, x, y, accumulate=flag)
        return store(out)

    np.testing.assert_allclose(
        run(kernel, A, B).outputs, 2 * (wide(A).T @ wide(B)), rtol=1e-5, atol=1e-4
    )


def test_accumulate_false_overwrites() -> None:
    def kernel(a: Any, b: Any) -> Any:
        x, y, out = load(a), load(b), psum((64, 96))
        nisa.nc_matmul(out, x, y)
        nisa.nc_matmul(out, x, y, accumulate=False)
        return store(out)

    np.testing.assert_allclose(run(kernel, A, B).outputs, wide(A).T @ wide(B), rtol=1e-5, atol=1e-4)


def test_a_region_never_written_keeps_its_memset() -> None:
    """The pattern of nki-library's attention backward: memset, then None into slices."""

    def kernel(a: Any, b: Any) -> Any:
        out = psum((64, 192))
        nisa.memset(out, 0.0)
        nisa.nc_matmul(out[:, 0:96], load(a), load(b))
        return store(out)

    got = run(kernel, A, B).outputs
    np.testing.assert_allclose(got[:, :96], wide(A).T @ wide(B), rtol=1e-5, atol=1e-4)
    assert (got[:, 96:] == 0).all()


@pytest.mark.parametrize("start", ["nothing", "memset", "copy after a matmul"])
def test_accumulation_needs_a_matmul_before_it(start: str) -> None:
    def kernel(a: Any, b: Any) -> Any:
        x, y, out = load(a), load(b), psum((64, 96))
        if start == "memset":
            nisa.memset(out, 0.0)
        if start == "copy after a matmul":
            nisa.nc_matmul(out, x, y)
            nisa.tensor_copy(out, y[0:64])
        nisa.nc_matmul(out, x, y, accumulate=True)
        return store(out)

    with pytest.raises(AccumulationError, match="no matmul has written") as caught:
        run(kernel, A, B)
    assert "nc_matmul" in caught.value.what
    assert "test_isa_matmul.py" in caught.value.where


def test_inferred_accumulation_may_not_mix_written_and_fresh_memory() -> None:
    def kernel(a: Any, b: Any) -> Any:
        x, y, out = load(a), load(b), psum((64, 96))
        nisa.nc_matmul(out[:, 0:48], x, y[:, 0:48])
        nisa.nc_matmul(out, x, y)
        return store(out)

    with pytest.raises(AccumulationError, match="only a part"):
        run(kernel, A, B)


def test_a_fresh_tensor_at_the_same_bank_starts_anew() -> None:
    def kernel(a: Any, b: Any) -> Any:
        x, y = load(a), load(b)
        for _ in range(2):
            out = psum((64, 96), address=(0, 2048))
            nisa.nc_matmul(out, x, y)
        return store(out)

    np.testing.assert_allclose(run(kernel, A, B).outputs, wide(A).T @ wide(B), rtol=1e-5, atol=1e-4)


def test_double_row_contracts_256() -> None:
    fp8 = ml_dtypes.float8_e4m3
    a, b = normal(128, 2, 32).astype(fp8), normal(128, 2, 48, seed=1).astype(fp8)

    def kernel(x: Any, y: Any) -> Any:
        out = psum((32, 48))
        nisa.nc_matmul(out, load(x), load(y), perf_mode=nisa.matmul_perf_mode.double_row)
        return store(out)

    wanted = np.einsum("kim,kin->mn", wide(a), wide(b))
    np.testing.assert_allclose(run(kernel, a, b).outputs, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.uint8])
def test_a_transpose_is_bit_exact_on_gen3(dtype: Any) -> None:
    x = (normal(64, 48) * 50).astype(dtype)
    if dtype is not np.uint8:
        x[3, 5], x[7, 9] = np.nan, np.inf

    def kernel(a: Any) -> Any:
        out = psum((48, 64), a.dtype)
        nisa.nc_transpose(out, load(a))
        return store(out)

    bits = np.dtype(f"u{x.itemsize}")
    got = run(kernel, x).outputs
    np.testing.assert_array_equal(got.view(bits), x.T.copy().view(bits))


def test_a_transpose_on_gen2_is_a_product_that_nan_spoils() -> None:
    x = normal(64, 48)
    x[3, 5] = np.nan

    def kernel(a: Any) -> Any:
        out = psum((48, 64))
        nisa.nc_transpose(out, load(a))
        return store(out)

    got = run(kernel, x, target="trn1").outputs
    assert np.isnan(got[5]).all()
    np.testing.assert_array_equal(np.delete(got, 5, 0), np.delete(x.T, 5, 0))


def test_the_vector_engine_transposes_32_by_32() -> None:
    x = normal(32, 16)

    def kernel(a: Any) -> Any:
        out = sbuf((16, 32))
        nisa.nc_transpose(out, load(a))
        return store(out)

    result = run(kernel, x)
    assert [i.engine for i in result.stream if i.opcode == "nc_transpose"] == ["vector"]
    np.testing.assert_array_equal(result.outputs, x.T)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_transpose_mode_moves_by_the_matrix_it_is_given(order: list[int]) -> None:
    x, by = normal(4, 40, dtype=BF16), np.eye(4, dtype=np.float32)[:, order].astype(BF16)

    def kernel(a: Any, b: Any) -> Any:
        out = psum((40, 4), nl.bfloat16)
        nisa.nc_matmul(out, load(a), load(b), is_transpose=True)
        return store(out)

    np.testing.assert_array_equal(run(kernel, x, by).outputs, x.T[:, order])


def test_tf32_operands_are_rounded() -> None:
    x = np.full((32, 8), 1 + 2**-12, np.float32)

    def kernel(a: Any) -> Any:
        tile = sbuf(a.shape, nl.tfloat32)
        nisa.dma_copy(tile, a)
        out = psum((8, 8))
        nisa.nc_matmul(out, tile, tile)
        return store(out)

    np.testing.assert_array_equal(run(kernel, x).outputs, np.full((8, 8), 32, np.float32))


def test_undefined_columns_taint_only_their_own_results() -> None:
    def kernel(a: Any, b: Any) -> Any:
        y, out = sbuf((128, 96), nl.bfloat16), psum((64, 96))
        nisa.dma_copy(y[:, 0:48], b[:, 0:48])
        nisa.nc_matmul(out, load(a), y)
        good, final = sbuf((64, 48)), hbm((64, 48))
        nisa.tensor_copy(good, out[:, 0:48])
        nisa.dma_copy(final, good)
        return final

    wanted = wide(A).T @ wide(B[:, :48])
    np.testing.assert_allclose(run(kernel, A, B).outputs, wanted, rtol=1e-5, atol=1e-4)

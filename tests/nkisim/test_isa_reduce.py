"""Reductions, scans and the accumulator registers of the Vector Engine."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ndtrain.nkisim.errors import UninitializedError

from .kernels import BF16, apply, load, nisa, nl, normal, run, sbuf, store

X = normal(64, 4, 10)
FOLDS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.sum,
    "maximum": np.max,
    "minimum": np.min,
    "multiply": np.prod,
}


@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize("axis", [(2,), (1, 2)])
def test_tensor_reduce(name: str, axis: tuple[int, ...]) -> None:
    wanted = FOLDS[name](X, axis=axis).reshape(64, -1)
    got = apply(lambda d, x: nisa.tensor_reduce(d, getattr(nl, name), x, axis), X,
                shape=wanted.shape)  # fmt: skip
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_negate_multiplies_the_result() -> None:
    got = apply(lambda d, x: nisa.tensor_reduce(d, nl.max, x, 2, negate=True), X, shape=(64, 4))
    np.testing.assert_array_equal(got, -X.max(2))


def test_a_bf16_sum_rounds_once_at_the_end() -> None:
    x = np.full((32, 256), 1 + 2**-7, BF16)
    got = apply(lambda d, a: nisa.tensor_reduce(d, nl.add, a, 1), x, dtype="bfloat16",
                shape=(32, 1))  # fmt: skip
    np.testing.assert_array_equal(got, np.float32(256 + 2).astype(BF16))


def test_the_partition_reduction_crosses_partitions() -> None:
    got = apply(lambda d, x: nisa.tensor_partition_reduce(d, nl.add, x), X[:, 0].copy(),
                shape=(1, 10))  # fmt: skip
    np.testing.assert_allclose(got[0], X[:, 0].sum(0), rtol=1e-5, atol=1e-5)


def test_tensor_scalar_reduce_folds_over_several_calls() -> None:
    def kernel(x: Any) -> Any:
        tile, out, top = load(x), sbuf((64, 4, 10)), sbuf((64, 1))
        nisa.tensor_scalar_reduce(out[:, 0:2], tile[:, 0:2], nl.multiply, 2.0, nl.maximum)
        nisa.tensor_scalar_reduce(
            out[:, 2:4], tile[:, 2:4], nl.multiply, 2.0, nl.maximum, top,
            reduce_cmd=nisa.reduce_cmd.reduce, reduce_res_negate=True,
        )  # fmt: skip
        return store(out), store(top)

    out, top = run(kernel, X).outputs
    np.testing.assert_array_equal(out, 2 * X)
    np.testing.assert_array_equal(top[:, 0], -2 * X.max((1, 2)))


def test_load_reduce_starts_from_a_given_value() -> None:
    def kernel(x: Any) -> Any:
        tile, top = load(x), sbuf((64, 1))
        nisa.tensor_scalar_reduce(
            tile,
            tile,
            nl.add,
            0.0,
            nl.maximum,
            top,
            reduce_cmd=nisa.reduce_cmd.load_reduce,
            reduce_init=100.0,
        )
        return store(top)  # fmt: skip

    np.testing.assert_array_equal(run(kernel, X).outputs, np.full((64, 1), 100, np.float32))


def test_an_idle_select_clobbers_the_registers() -> None:
    def kernel(x: Any, mask: Any) -> Any:
        tile, keep, top = load(x), load(mask), sbuf((64, 1))
        nisa.tensor_scalar_reduce(tile, tile, nl.add, 0.0, nl.maximum)
        nisa.select_reduce(tile, keep, tile, 0.0)
        nisa.tensor_scalar_reduce(
            tile, tile, nl.add, 0.0, nl.maximum, top, reduce_cmd=nisa.reduce_cmd.reduce
        )
        return store(top)  # fmt: skip

    with pytest.raises(UninitializedError):
        run(kernel, X, np.ones(X.shape, np.uint8))


def test_the_scan_is_a_linear_recurrence() -> None:
    a, b = normal(32, 12, seed=1), normal(32, 12, seed=2)
    got = apply(lambda d, x, y: nisa.tensor_tensor_scan(d, x, y, 0.5, nl.multiply, nl.add), a, b)
    state, wanted = np.full(32, 0.5, np.float32), np.empty_like(a)
    for i in range(12):
        state = a[:, i] * state + b[:, i]
        wanted[:, i] = state
    np.testing.assert_array_equal(got, wanted)


def test_the_cumulative_sum() -> None:
    x = normal(32, 9)
    got = apply(lambda d, a: nisa.tensor_scalar_cumulative(d, a, nl.multiply, nl.add, 2.0), x)
    np.testing.assert_allclose(got, np.cumsum(2 * x, axis=1), rtol=1e-5, atol=1e-5)

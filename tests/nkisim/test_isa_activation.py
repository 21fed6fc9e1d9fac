"""The Scalar Engine: functions, scale and bias, and the accumulator registers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ndtrain.nkisim import ops

from .kernels import apply, load, nisa, nl, normal, run, sbuf, store

X, COLUMN = normal(64, 40), normal(64, 1, seed=5)
erf = np.vectorize(math.erf)
FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "copy": lambda x: x, "square": np.square, "exp": np.exp, "tanh": np.tanh, "abs": np.abs,
    "relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)), "gelu": lambda x: x * (1 + erf(x / 2**0.5)) / 2,
    "softplus": lambda x: np.log1p(np.exp(x)), "erf": erf, "sign": np.sign, "sin": np.sin,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))), "arctan": np.arctan,
}  # fmt: skip
DERIVATIVES = {"silu_dx": "silu", "gelu_dx": "gelu", "erf_dx": "erf",
               "gelu_apprx_sigmoid_dx": "gelu_apprx_sigmoid"}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_matches_its_definition(name: str) -> None:
    wide = X.astype(np.float64) if name != "sin" else np.clip(X.astype(np.float64), -3, 3)
    got = apply(lambda d, x: nisa.activation(d, getattr(nl, name), x), wide.astype(np.float32))
    np.testing.assert_allclose(got, FUNCTIONS[name](wide), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_a_derivative_is_the_slope_of_its_function(name: str) -> None:
    x = np.linspace(-3, 3, 50)
    fn, slope = ops.ALL[DERIVATIVES[name]].fn, ops.ALL[name].fn(x)
    np.testing.assert_allclose(slope, (fn(x + 1e-3) - fn(x - 1e-3)) / 2e-3, atol=2e-3)


def test_scale_is_applied_before_bias() -> None:
    got = apply(lambda d, x, c: nisa.activation(d, nl.exp, x, bias=c, scale=0.5), X, COLUMN)
    np.testing.assert_allclose(got, np.exp(X * np.float32(0.5) + COLUMN), rtol=1e-6)


def test_the_sine_extrapolates_a_cubic_beyond_pi() -> None:
    got = apply(lambda d, x: nisa.activation(d, nl.sin, x), np.full((32, 1), 9, np.float32))
    np.testing.assert_allclose(got, 27.65, atol=0.01)  # the figure of nki.api.shared.rst


def test_the_sine_of_the_language_reduces_its_range() -> None:
    x = np.linspace(-20, 20, 64).astype(np.float32).reshape(32, 2)
    for name in ("sin", "cos"):
        got = run(lambda a, n=name: store(getattr(nl, n)(load(a))), x).outputs
        np.testing.assert_allclose(got, getattr(np, name)(x), atol=5e-6)


def test_log_outside_its_table_is_not_a_number() -> None:
    got = apply(
        lambda d, x: nisa.activation(d, nl.log, x), np.array([[1.0, 2.0**-70]] * 32, np.float32)
    )
    assert got[0, 0] == 0
    assert np.isnan(got[0, 1])


def test_activation_reduce_sums_the_activated_row() -> None:
    def kernel(x: Any) -> Any:
        tile, total = load(x), sbuf((64, 1))
        nisa.activation_reduce(tile, nl.exp, tile, nl.add, total)
        return store(total)

    np.testing.assert_allclose(run(kernel, X).outputs[:, 0], np.exp(X).sum(1), rtol=1e-6)


def test_the_registers_persist_until_they_are_reset() -> None:
    def kernel(x: Any) -> Any:
        tile, total, out = load(x), sbuf((64, 1)), sbuf((64, 40))
        cmd = nisa.reduce_cmd
        nisa.activation(out, nl.copy, tile, reduce_op=nl.add, reduce_cmd=cmd.reset_reduce)
        nisa.activation(out, nl.square, tile)
        nisa.activation(out, nl.copy, tile, reduce_op=nl.add, reduce_cmd=cmd.reduce)
        nisa.activation(out, nl.copy, tile, reduce_res=total)
        return store(total)

    np.testing.assert_allclose(run(kernel, X).outputs[:, 0], 2 * X.sum(1), rtol=1e-5, atol=1e-5)


def test_the_result_of_the_registers_may_overwrite_an_operand() -> None:
    def kernel(x: Any, c: Any) -> Any:
        tile, column = load(x), load(c)
        nisa.activation_reduce(tile, nl.copy, tile, nl.add, column, bias=column)
        return store(column)

    wanted = (X + COLUMN).sum(1)
    np.testing.assert_allclose(run(kernel, X, COLUMN).outputs[:, 0], wanted, rtol=1e-5, atol=1e-5)

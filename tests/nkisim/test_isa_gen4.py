"""Instructions of NeuronCore-v4."""

from typing import Any

import numpy as np
import pytest

from ndtrain.nkisim.errors import HardwareLimit

from .kernels import load, nisa, nl, normal, run, sbuf, store

X, TOP = normal(64, 40), normal(64, 1, seed=2)


def softmax_parts(x: Any, top: Any) -> Any:
    tile, high, total = load(x), load(top), sbuf((64, 1))
    cmd = nisa.reduce_cmd
    nisa.exponential(tile[:, 0:20], tile[:, 0:20], high, reduce_cmd=cmd.reset_reduce)
    nisa.exponential(tile[:, 20:40], tile[:, 20:40], high, total, reduce_cmd=cmd.reduce)
    return store(tile), store(total)


def test_exponential_subtracts_and_sums() -> None:
    out, total = run(softmax_parts, X, TOP, target="trn3").outputs
    np.testing.assert_allclose(out, np.exp(X - TOP), rtol=1e-6)
    np.testing.assert_allclose(total, np.exp(X - TOP).sum(1, keepdims=True), rtol=1e-5)


def test_activate2_applies_three_stages_and_folds() -> None:
    def kernel(x: Any, c: Any) -> Any:
        tile, column, top = load(x), load(c), sbuf((64, 1))
        nisa.activate2(
            tile, nl.relu, tile, 2.0, column, nl.multiply, nl.subtract, reverse1=True,
            reduce_op=nl.maximum, reduce_res=top, reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )  # fmt: skip
        return store(tile), store(top)

    out, top = run(kernel, X, TOP, target="trn3").outputs
    wanted = np.maximum(TOP - np.float32(2) * X, 0)
    np.testing.assert_allclose(out, wanted, rtol=1e-6)
    np.testing.assert_allclose(top, wanted.max(1, keepdims=True), rtol=1e-6)


def test_older_generations_do_not_have_them() -> None:
    with pytest.raises(HardwareLimit, match="exponential needs gen4"):
        run(softmax_parts, X, TOP, target="trn2")


def test_combinations_that_do_not_exist() -> None:
    def kernel(x: Any) -> None:
        tile = load(x)
        nisa.activate2(tile, nl.exp, tile, 1.0, 1.0, nl.add, nl.add)

    with pytest.raises(HardwareLimit, match="do not combine"):
        run(kernel, X, target="trn3")

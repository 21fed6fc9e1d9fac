"""iota, affine_select, range_select, select_reduce, tensor_copy_predicated."""

from typing import Any

import numpy as np

from ndtrain.nkisim.isa_select import FP32_MIN

from .kernels import BF16, apply, load, nisa, nl, normal, run, sbuf, store

X = normal(64, 32)
P, F = np.arange(64)[:, None], np.arange(32)[None, :]


def test_iota_counts_over_a_pattern_and_the_partitions() -> None:
    got = apply(lambda d, x: nisa.iota(d, [[10, 4], [1, 8]], offset=3, channel_multiplier=100),
                X, dtype="int32")  # fmt: skip
    np.testing.assert_array_equal(got, 3 + 100 * P + 10 * (F // 8) + F % 8)


def test_a_causal_mask_by_affine_select() -> None:
    got = apply(
        lambda d, x: nisa.affine_select(
            d, [[-1, 32]], channel_multiplier=1, on_true_tile=x, on_false_value=-7.0,
            cmp_op=nl.greater_equal, offset=5,
        ),
        X,
    )  # fmt: skip
    np.testing.assert_array_equal(got, np.where(P + 5 - F >= 0, X, np.float32(-7)))


def test_range_select_keeps_indices_between_two_bounds_and_folds_them() -> None:
    low = np.full((64, 1), 104, np.float32)
    high = (100 + P).astype(np.float32)

    def kernel(x: Any, a: Any, b: Any) -> Any:
        tile, out, top = load(x), sbuf((64, 32)), sbuf((64, 1))
        nisa.range_select(out, tile, nl.greater_equal, nl.less, load(a), load(b),
                          reduce_res=top, range_start=100)  # fmt: skip
        return store(out), store(top)

    out, top = run(kernel, X, low, high).outputs
    keep = (F + 100 >= 104) & (F + 100 < 100 + P)
    wanted = np.where(keep, X, np.float32(FP32_MIN))
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(top, wanted.max(1, keepdims=True))


def test_the_fill_of_range_select_is_minus_infinity_in_bf16() -> None:
    def kernel(x: Any, a: Any) -> Any:
        tile, out, bound = load(x), sbuf((64, 32), nl.bfloat16), load(a)
        nisa.range_select(out, tile, nl.less, nl.less, bound, bound)
        return store(out)

    got = run(kernel, X.astype(BF16), np.zeros((64, 1), np.float32)).outputs
    assert (got.astype(np.float32) == -np.inf).all()


def test_select_reduce() -> None:
    keep = (X > 0).astype(np.uint8)

    def kernel(x: Any, mask: Any) -> Any:
        tile, top = load(x), sbuf((64, 1))
        nisa.select_reduce(tile, load(mask), tile, -1.0, reduce_res=top, reverse_pred=True,
                           reduce_cmd=nisa.reduce_cmd.reset_reduce)  # fmt: skip
        return store(tile), store(top)

    out, top = run(kernel, X, keep).outputs
    wanted = np.where(X > 0, np.float32(-1), X)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(top[:, 0], wanted.max(1))


def test_a_predicated_copy_leaves_the_rest_alone() -> None:
    keep, other = (X > 0).astype(np.uint8), normal(64, 32, seed=9)

    def kernel(x: Any, y: Any, mask: Any) -> Any:
        tile = load(x)
        nisa.tensor_copy_predicated(tile, load(y), load(mask))
        return store(tile)

    np.testing.assert_array_equal(run(kernel, X, other, keep).outputs, np.where(keep, other, X))


def test_a_masked_element_no_longer_depends_on_undefined_memory() -> None:
    def kernel() -> Any:
        tile = sbuf((64, 32))  # never written
        nisa.affine_select(tile, [[0, 32]], 0, tile, 3.0, nl.not_equal)
        return store(tile)

    np.testing.assert_array_equal(run(kernel).outputs, np.full((64, 32), 3, np.float32))

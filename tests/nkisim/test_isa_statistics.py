"""bn_stats and bn_aggr, the searches for eight values, GpSimd gathers."""

from typing import Any

import numpy as np

from .kernels import apply, load, nisa, nl, normal, run, sbuf, store


def test_mean_and_variance_over_two_tiles() -> None:
    x = normal(64, 600)

    def kernel(a: Any) -> Any:
        tile, stats, out = load(a), sbuf((64, 2, 6)), sbuf((64, 2))
        nisa.bn_stats(stats[:, 0, :], tile[:, 0:511])
        nisa.bn_stats(stats[:, 1, :], tile[:, 511:600])
        nisa.bn_aggr(out, stats)
        return store(out)

    got = run(kernel, x).outputs
    np.testing.assert_allclose(got[:, 0], x.mean(1), atol=1e-6)
    np.testing.assert_allclose(got[:, 1], x.var(1), rtol=1e-5)


def test_max8_sorts_the_largest_down() -> None:
    x = normal(32, 40)
    got = apply(lambda d, a: nisa.max8(d, a), x, shape=(32, 8))
    np.testing.assert_array_equal(got, -np.sort(-x, axis=1)[:, :8])


def test_find_index8_gives_first_positions_and_a_sentinel() -> None:
    x = np.tile(np.array([5, 1, 5, 2, 3, 4, 6, 7, 8, 9], np.float32), (32, 1))
    wanted = np.tile(np.array([5, 5, 9, 100, 1, 2, 3, 4], np.float32), (32, 1))
    got = apply(lambda d, a, b: nisa.nc_find_index8(d, a, b), x, wanted, shape=(32, 8),
                dtype="uint32")  # fmt: skip
    np.testing.assert_array_equal(got[0], [0, 2, 9, 0xFFFFFFFF, 1, 3, 4, 5])


def test_match_replace8_serves_duplicates_from_the_last_slot() -> None:
    """The example of the docstring of nki.isa 0.6."""
    x = np.tile(np.array([1, 2, 3, 4, 8, 8, 8, 8, 8, 8, 8], np.float32), (32, 1))
    vals = np.tile(np.array([3, 8, 8, 8, 8, 8, 8, 8], np.float32), (32, 1))

    def kernel(a: Any, b: Any) -> Any:
        tile, at = load(a), sbuf((32, 8), nl.uint32)
        nisa.nc_match_replace8(tile, tile, load(b), -1.0, dst_idx=at)
        return store(tile), store(at)

    out, at = run(kernel, x, vals).outputs
    np.testing.assert_array_equal(out[0], [1, 2, -1, 4] + [-1] * 7)
    np.testing.assert_array_equal(at[0], [2, 10, 9, 8, 7, 6, 5, 4])


def test_gather_within_a_partition() -> None:
    x = normal(32, 40)
    at = np.random.default_rng(0).integers(0, 40, (32, 12)).astype(np.uint32)
    got = apply(lambda d, a, i: nisa.nc_n_gather(d, a, i), x, at, shape=(32, 12))
    np.testing.assert_array_equal(got, np.take_along_axis(x, at.astype(np.int64), 1))


def test_gather_with_indices_of_sixteen_partitions() -> None:
    x = normal(32, 40)
    at = np.random.default_rng(0).integers(0, 40, (32, 2)).astype(np.uint16)
    got = apply(lambda d, a, i: nisa.local_gather(d, a, i), x, at, shape=(32, 32))
    for core in range(2):
        lanes = slice(16 * core, 16 * core + 16)
        np.testing.assert_array_equal(got[lanes], x[lanes][:, at[lanes].T.reshape(-1)])


def test_nonzero_with_count_works_on_every_sixteenth_partition() -> None:
    x = np.tile(np.array([0, 1, 1, 0, 0, 1, 0, 0], np.int32), (32, 1))

    def kernel(a: Any) -> Any:
        out = sbuf((32, 9), nl.int32)
        nisa.memset(out, 7)
        nisa.nonzero_with_count(out, load(a), index_offset=16)
        return store(out)

    got = run(kernel, x).outputs
    np.testing.assert_array_equal(got[16], [17, 18, 21, -1, -1, -1, -1, -1, 3])
    assert (got[1] == 7).all()


def test_sequence_bounds_of_packed_segments() -> None:
    ids = np.array([[1, 1, 2, 2, 2, 0]], np.int32)
    got = apply(lambda d, a: nisa.sequence_bounds(d, a), ids, shape=(1, 2, 6), dtype="int32")
    np.testing.assert_array_equal(got[0, 0], [0, 0, 2, 2, 2, 6])
    np.testing.assert_array_equal(got[0, 1], [2, 2, 5, 5, 5, -1])

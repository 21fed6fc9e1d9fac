"""DMA: copies, gathers, scatters, transposes, sums."""

from typing import Any

import numpy as np
import pytest

from ndtrain.nkisim.errors import HardwareLimit

from .kernels import BF16, hbm, load, nisa, nl, normal, run, sbuf, store

TABLE = normal(20, 16)
ROWS = np.array([[3], [19], [0], [7]], np.uint32)


def gather(table: Any, rows: Any, **how: Any) -> Any:
    index, tile = load(rows), sbuf((4, 16))
    nisa.memset(tile, -1.0)
    nisa.dma_copy(tile, table.ap([[16, 4], [1, 16]], vector_offset=index, indirect_dim=0), **how)
    return store(tile)


def test_a_copy_casts_through_float32() -> None:
    def kernel(x: Any) -> Any:
        out = hbm(x.shape, nl.bfloat16)
        nisa.dma_copy(out, x)
        return out

    np.testing.assert_array_equal(run(kernel, TABLE).outputs, TABLE.astype(BF16))


def test_a_gather_reads_the_indexed_rows() -> None:
    np.testing.assert_array_equal(run(gather, TABLE, ROWS).outputs, TABLE[ROWS[:, 0]])


def test_vector_select_is_the_same_gather() -> None:
    def kernel(table: Any, rows: Any) -> Any:
        tile = sbuf((4, 16))
        nisa.dma_copy(tile, table.vector_select(0, load(rows)))
        return store(tile)

    np.testing.assert_array_equal(run(kernel, TABLE, ROWS).outputs, TABLE[ROWS[:, 0]])


def test_an_index_out_of_bounds_is_an_error_or_skipped() -> None:
    rows = ROWS.copy()
    rows[1] = 20
    with pytest.raises(HardwareLimit, match="row 20 is outside the 20 rows"):
        run(gather, TABLE, rows)
    got = run(lambda t, r: gather(t, r, oob_mode=nisa.oob_mode.skip), TABLE, rows).outputs
    wanted = TABLE[np.array([3, 0, 0, 7])]
    wanted[1] = -1
    np.testing.assert_array_equal(got, wanted)


def test_a_scatter_writes_the_indexed_rows() -> None:
    def kernel(table: Any, rows: Any, new: Any) -> Any:
        nisa.dma_copy(
            table.ap([[16, 4], [1, 16]], vector_offset=load(rows), indirect_dim=0), load(new)
        )
        return table

    table, new = TABLE.copy(), normal(4, 16, seed=4)
    wanted = TABLE.copy()
    wanted[ROWS[:, 0]] = new
    got = run(kernel, table, ROWS, new).outputs
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(table, wanted)  # inputs are updated in place


@pytest.mark.parametrize("kind", ["tensor", "register"])
def test_a_scalar_index_moves_the_whole_access(kind: str) -> None:
    def kernel(table: Any, row: Any) -> Any:
        index = load(row) if kind == "tensor" else nisa.register_alloc(5)
        tile = sbuf((2, 8))
        nisa.dma_copy(
            tile, table.ap([[16, 2], [1, 8]], offset=4, scalar_offset=index, indirect_dim=0)
        )
        return store(tile)

    row = np.array([[5]], np.int32)
    np.testing.assert_array_equal(run(kernel, TABLE, row).outputs, TABLE[5:7, 4:12])


def test_a_dynamic_select() -> None:
    def kernel(table: Any, row: Any) -> Any:
        tile = sbuf((4, 16))
        nisa.dma_copy(tile, table.reshape((5, 4, 16)).select(0, load(row)))
        return store(tile)

    got = run(kernel, TABLE, np.array([[2]], np.int32)).outputs
    np.testing.assert_array_equal(got, TABLE[8:12])


@pytest.mark.parametrize("shape", [(32, 48), (16, 3, 32), (8, 2, 3, 64)])
def test_the_transpose_permutes_by_rank(shape: tuple[int, ...]) -> None:
    axes = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}[len(shape)]
    x = normal(*shape, dtype=BF16)

    def kernel(a: Any) -> Any:
        tile = sbuf(tuple(shape[i] for i in axes), nl.bfloat16)
        nisa.dma_transpose(tile, a)
        return store(tile)

    np.testing.assert_array_equal(run(kernel, x).outputs, x.transpose(axes))


def test_an_indirect_transpose_gathers_first() -> None:
    x = normal(64, 32, dtype=BF16)
    rows = np.random.default_rng(0).permutation(64)[:16].astype(np.uint32)[:, None]

    def kernel(a: Any, r: Any) -> Any:
        tile = sbuf((32, 16), nl.bfloat16)
        source = a.ap([[32, 16], [1, 32]], vector_offset=load(r), indirect_dim=0)
        nisa.dma_transpose(tile, source, axes=(1, 0))
        return store(tile)

    np.testing.assert_array_equal(run(kernel, x, rows).outputs, x[rows[:, 0]].T)


def test_the_dma_sums_its_sources() -> None:
    def kernel(a: Any, b: Any) -> Any:
        out = hbm(a.shape)
        nisa.dma_compute(out, [a, b, a], nl.add)
        return out

    other = normal(20, 16, seed=2)
    np.testing.assert_array_equal(run(kernel, TABLE, other).outputs, TABLE + other + TABLE)


def test_read_modify_write_scatters_a_sum() -> None:
    def kernel(table: Any, rows: Any, new: Any) -> Any:
        at = table.ap([[16, 4], [1, 16]], vector_offset=load(rows), indirect_dim=0)
        nisa.dma_compute(at, [at, load(new)], nl.add)
        return table

    new, wanted = normal(4, 16, seed=4), TABLE.copy()
    wanted[ROWS[:, 0]] += new
    np.testing.assert_array_equal(run(kernel, TABLE.copy(), ROWS, new).outputs, wanted)


def test_a_row_of_hbm_is_broadcast_with_stride_zero() -> None:
    def kernel(table: Any) -> Any:
        tile = sbuf((128, 16))
        nisa.dma_copy(tile, table.ap([[0, 128], [1, 16]], offset=32))
        return store(tile)

    np.testing.assert_array_equal(run(kernel, TABLE).outputs, np.repeat(TABLE[2:3], 128, 0))

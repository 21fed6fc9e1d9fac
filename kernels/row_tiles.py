"""Tiles of 128 rows: how the kernels move, transpose and evict them. Shared, not a kernel.

A row tile holds 128 consecutive tokens on the partitions. [P, T, D] is T row tiles side by side,
token 128 * t + p at [p, t]; `transposed` is [D, T * 128], token 128 * t + p in that column.
"""

from typing import Any

import nki.isa as nisa
import nki.language as nl

Tensor = Any
"""A tensor of nki, in HBM or on chip: NKI 0.2 has no public name for the class."""
TILE = 128
"""Rows of a tile: the partitions of SBUF and the side of the systolic array."""
LOAD_TILES = 16
"""Row tiles moved by one DMA: 4 KiB a partition at D=128 bf16, where a DMA reaches its peak."""
TRANSPOSE_TILES = 4
"""Transposed tiles collected in one PSUM bank before they are evicted by one instruction."""


def divide_up(numerator: int, denominator: int) -> int:
    """numerator / denominator, rounded up."""
    return (numerator + denominator - 1) // denominator


def rows_in_tile(tile: int, length: int) -> int:
    """Rows of tile number `tile` of a sequence of `length` tokens (the last may be short)."""
    return min(TILE, length - tile * TILE)


def evict(dst: Tensor, src: Tensor, on_scalar: bool) -> None:
    """Copies PSUM to SBUF on ScalarE or VectorE: kernels give it to whichever waits for the other.

    tensor_copy does not exist on the ScalarE of gen2; an activation with op=copy does everywhere.
    """
    if on_scalar:
        nisa.activation(dst=dst, op=nl.copy, data=src)
    else:
        nisa.tensor_copy(dst=dst, src=src, engine=nisa.engine.vector)


def copy_rows(
    hbm_SBND: Tensor,
    tiles: Tensor,
    first_row: int,
    num_rows: int,
    index: tuple[int, int],
    to_hbm: bool,
) -> None:
    """Copies rows [first_row, +num_rows) of one (batch, head) between HBM and row tiles [P, T, D].

    `index` is (batch, head). One DMA for each LOAD_TILES whole tiles and one for a short last one.
    """
    _, batch_size, num_heads, dim = hbm_SBND.shape
    batch, head = index
    row_stride = batch_size * num_heads * dim
    whole = num_rows // TILE
    for start in range(0, whole, LOAD_TILES):
        count = min(LOAD_TILES, whole - start)
        rows = hbm_SBND.ap(
            pattern=[[row_stride, TILE], [TILE * row_stride, count], [1, dim]],
            offset=(first_row + start * TILE) * row_stride + (batch * num_heads + head) * dim,
        )
        chip = tiles[:, start : start + count, :]
        nisa.dma_copy(dst=rows if to_hbm else chip, src=chip if to_hbm else rows)
    rest = num_rows - whole * TILE
    if rest > 0:
        first = first_row + whole * TILE
        rows = hbm_SBND[first : first + rest, batch, head, :]
        chip = tiles[0:rest, whole, :]
        nisa.dma_copy(dst=rows if to_hbm else chip, src=chip if to_hbm else rows)


def load_rows(src_SBND: Tensor, first_row: int, num_rows: int, index: tuple[int, int]) -> Tensor:
    """Returns rows [first_row, +num_rows) of one (batch, head) as row tiles [P, T, D] in SBUF."""
    shape = (TILE, divide_up(num_rows, TILE), src_SBND.shape[3])
    tiles = nl.ndarray(shape, dtype=src_SBND.dtype, buffer=nl.sbuf)
    copy_rows(src_SBND, tiles, first_row, num_rows, index, False)
    return tiles


def copy_block(hbm: Tensor, chip: Tensor, first_row: int, first_column: int, to_hbm: bool) -> None:
    """Copies chip [rows, columns] to or from hbm [..., width], seen as rows of its last dim."""
    width = hbm.shape[len(hbm.shape) - 1]
    rows, columns = chip.shape
    block = hbm.ap(pattern=[[width, rows], [1, columns]], offset=first_row * width + first_column)
    nisa.dma_copy(dst=block if to_hbm else chip, src=chip if to_hbm else block)


def load_block(hbm: Tensor, first_row: int, rows: int, first_column: int, columns: int) -> Tensor:
    """Returns rows [first_row, +rows), columns [first_column, +columns) of hbm [..., width]."""
    chip = nl.ndarray((rows, columns), dtype=hbm.dtype, buffer=nl.sbuf)
    copy_block(hbm, chip, first_row, first_column, False)
    return chip


def load_broadcast(vector: Tensor) -> Tensor:
    """Returns vector [W] in HBM as [128, W] in SBUF: every partition holds it."""
    width = vector.shape[0]
    chip = nl.ndarray((TILE, width), dtype=vector.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=chip, src=vector.ap(pattern=[[0, TILE], [1, width]], offset=0))
    return chip


def num_rows_of(hbm: Tensor) -> int:
    """Rows of hbm [..., width]: the product of all dims but the last."""
    rows = 1
    for dim in hbm.shape[0 : len(hbm.shape) - 1]:
        rows = rows * dim
    return rows


def replace_last(shape: tuple[int, ...], last: int) -> tuple[int, ...]:
    """The shape with its last dim replaced."""
    dims = []
    for dim in shape[0 : len(shape) - 1]:
        dims.append(dim)
    dims.append(last)
    return tuple(dims)


def core_tiles(num_tiles: int) -> tuple[int, int]:
    """The tiles [first, last) that this core of the launch processes."""
    core, num_cores = programs()
    return num_tiles * core // num_cores, num_tiles * (core + 1) // num_cores


def regions(num_rows: int) -> list[tuple[int, int, int]]:
    """The parts of a [P, T] tile that `num_rows` rows fill: [(rows, first tile, last tile)].

    Whole tiles first, then a short last one, so that no instruction reads what nobody wrote.
    """
    whole = num_rows // TILE
    parts = []
    if whole > 0:
        parts.append((TILE, 0, whole))
    if num_rows > whole * TILE:
        parts.append((num_rows - whole * TILE, whole, whole + 1))
    return parts


def copy_columns(hbm: Tensor, columns: Tensor, first: int, count: int, to_hbm: bool) -> None:
    """Copies `count` scalars from flat position `first` of hbm, token 128 t + p at [p, t].

    Four bytes a descriptor; the statistics of a row tile are 1/D of its data.
    """
    for rows, start, end in regions(count):
        pattern = [[1, rows], [TILE, end - start]]
        scalars = hbm.ap(pattern=pattern, offset=first + start * TILE)
        chip = columns[0:rows, start:end]
        nisa.dma_copy(dst=scalars if to_hbm else chip, src=chip if to_hbm else scalars)


def load_columns(src: Tensor, first: int, count: int) -> Tensor:
    """Returns `count` scalars from flat position `first` of src as [P, T] fp32 in SBUF."""
    shape = (TILE, divide_up(count, TILE))
    columns = nl.ndarray(shape, dtype=src.dtype, buffer=nl.sbuf)
    copy_columns(src, columns, first, count, False)
    if src.dtype == nl.float32:
        return columns
    wide = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
    for rows, start, end in regions(count):
        nisa.tensor_copy(dst=wide[0:rows, start:end], src=columns[0:rows, start:end])
    return wide


def transpose_rows(transposed: Tensor, tiles: Tensor, num_rows: int) -> None:
    """Writes row tiles [P, T, D] into `transposed` [D, num_rows]: TensorE to PSUM, then evicted."""
    _, num_tiles, dim = tiles.shape
    for first in range(0, num_tiles, TRANSPOSE_TILES):
        last = min(first + TRANSPOSE_TILES, num_tiles)
        bank = nl.ndarray((dim, TRANSPOSE_TILES * TILE), dtype=tiles.dtype, buffer=nl.psum)
        for tile in range(first, last):
            rows = rows_in_tile(tile, num_rows)
            column = (tile - first) * TILE
            nisa.nc_transpose(
                dst=bank[:, column : column + rows],
                data=tiles[0:rows, tile, :],
                engine=nisa.engine.tensor,
            )
        begin = first * TILE
        end = min(num_rows, last * TILE)
        odd = first // TRANSPOSE_TILES % 2 == 1
        evict(transposed[:, begin:end], bank[:, 0 : end - begin], odd)


def transpose_blocks(tile: Tensor, on_scalar: bool) -> Tensor:
    """[rows, columns] -> [P, blocks of 128 columns, rows] in SBUF, at most four blocks.

    A last block of fewer columns fills as many partitions; the others of that block are undefined.
    """
    rows, num_columns = tile.shape
    whole = num_columns // TILE
    num_blocks = divide_up(num_columns, TILE)
    bank = nl.ndarray((TILE, TRANSPOSE_TILES, TILE), dtype=tile.dtype, buffer=nl.psum)
    for block in range(num_blocks):
        columns = rows_in_tile(block, num_columns)
        begin = block * TILE
        nisa.nc_transpose(
            dst=bank[0:columns, block, 0:rows],
            data=tile[:, begin : begin + columns],
            engine=nisa.engine.tensor,
        )
    transposed = nl.ndarray((TILE, num_blocks, rows), dtype=tile.dtype, buffer=nl.sbuf)
    if whole > 0:
        evict(transposed[:, 0:whole, :], bank[:, 0:whole, 0:rows], on_scalar)
    if whole < num_blocks:
        columns = num_columns - whole * TILE
        evict(transposed[0:columns, whole, :], bank[0:columns, whole, 0:rows], on_scalar)
    return transposed


def programs() -> tuple[int, int]:
    """(this core's number, number of cores) of the launch: (0, 1) without a grid."""
    if nl.program_ndim() == 0:
        return 0, 1
    return nl.program_id(0), nl.num_programs(0)

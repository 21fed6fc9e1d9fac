"""Where attention_backward leaves dK and dV of one key/value head.

With one section of queries, PSUM holds the whole sum: it is scaled, rounded and written. With
more, sums travel between the sections through private HBM in fp32 and are rounded at the end.
"""

from dataclasses import dataclass

import nki.isa as nisa
import nki.language as nl

from .attention_gradients import Keys
from .attention_masks import BANK_TILES, Problem
from .row_tiles import LOAD_TILES, TILE, Tensor, copy_rows, load_rows, regions


@dataclass
class Store(nl.NKIObject):
    """dK and dV in HBM, the (batch, head) they belong to, and the sums [S', 1, 2, D] or None."""

    gradients: Tensor
    index: Tensor
    several: bool
    sums: Tensor
    first: int  # key tiles [first, last) have been written (one section only)
    last: int


def open_store(
    problem: Problem, outputs: tuple[Tensor, ...], index: tuple[int, int], several: bool
) -> Store:
    """Starts the gradients of the key/value head `index`; `several` sections will add to them."""
    store = Store(
        gradients=(outputs[1], outputs[2]),
        index=index,
        several=several,
        sums=None,
        first=0,
        last=0,
    )
    if several:
        shape = (problem.num_keys, 1, 2, problem.head_dim)
        store.sums = nl.ndarray(shape, dtype=nl.float32, buffer=nl.private_hbm)
        for which in range(2):
            clear_rows(store.sums, (0, which), 0, problem.num_keys)
    return store


def clear_rows(hbm_SBND: Tensor, index: tuple[int, int], first_row: int, num_rows: int) -> None:
    """Writes zeros into rows [first_row, +num_rows) of one (batch, head)."""
    if num_rows <= 0:
        return
    length = LOAD_TILES * TILE
    shape = (TILE, LOAD_TILES, hbm_SBND.shape[3])
    zeros = nl.ndarray(shape, dtype=hbm_SBND.dtype, buffer=nl.sbuf)
    nisa.memset(dst=zeros, value=0.0)
    for start in range(0, num_rows, length):
        count = min(length, num_rows - start)
        copy_rows(hbm_SBND, zeros, first_row + start, count, index, True)


def add_key_gradients(problem: Problem, store: Store, keys: Keys) -> None:
    """Adds the dK and dV that PSUM holds for one block of keys."""
    first_row = keys.first * TILE
    num_rows = min(keys.last * TILE, problem.num_keys) - first_row
    blocks = (keys.dk_PTD, keys.dv_PTD)
    scales = (problem.scale, 1.0)
    for which in range(2):
        if store.several:
            sums = load_rows(store.sums, first_row, num_rows, (0, which))
            for rows, start, end in regions(num_rows):
                part = sums[0:rows, start:end, :]
                block = blocks[which][0:rows, start:end, :]
                nisa.tensor_tensor(dst=part, data1=part, data2=block, op=nl.add)
            copy_rows(store.sums, sums, first_row, num_rows, (0, which), True)
        else:
            hbm = store.gradients[which]
            write_scaled(hbm, store.index, blocks[which], first_row, num_rows, scales[which])
    if store.last == 0:
        store.first = keys.first
    store.last = keys.last


def write_scaled(
    hbm_SBKD: Tensor,
    index: tuple[int, int],
    block_PTD: Tensor,
    first_row: int,
    num_rows: int,
    scale: float,
) -> None:
    """Writes scale * block, rounded to the dtype of hbm."""
    rounded = nl.ndarray(block_PTD.shape, dtype=hbm_SBKD.dtype, buffer=nl.sbuf)
    for rows, start, end in regions(num_rows):
        part = rounded[0:rows, start:end, :]
        nisa.activation(dst=part, op=nl.copy, data=block_PTD[0:rows, start:end, :], scale=scale)
    copy_rows(hbm_SBKD, rounded, first_row, num_rows, index, True)


def close_store(problem: Problem, store: Store) -> None:
    """Rounds the sums of several sections, or clears the keys that no query saw."""
    scales = (problem.scale, 1.0)
    for which in range(2):
        hbm = store.gradients[which]
        if store.several:
            length = BANK_TILES * TILE
            for first_row in range(0, problem.num_keys, length):
                num_rows = min(length, problem.num_keys - first_row)
                sums = load_rows(store.sums, first_row, num_rows, (0, which))
                write_scaled(hbm, store.index, sums, first_row, num_rows, scales[which])
        else:
            clear_rows(hbm, store.index, 0, store.first * TILE)
            last_row = min(store.last * TILE, problem.num_keys)
            clear_rows(hbm, store.index, last_row, problem.num_keys - last_row)

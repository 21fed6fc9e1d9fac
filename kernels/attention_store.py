"""Where attention_backward leaves dK and dV of one key/value head. Not a kernel.

With one section of queries, PSUM holds the whole sum: it is scaled, rounded and written. With
more, or with two cores that share the query heads, sums travel through HBM in fp32 and are rounded
at the end.
"""

from dataclasses import dataclass

import nki.isa as nisa
import nki.language as nl

from .attention_gradients import Keys
from .attention_masks import BANK_TILES, Problem
from .row_tiles import (
    LOAD_TILES,
    TILE,
    Tensor,
    copy_rows,
    core_tiles,
    divide_up,
    load_rows,
    programs,
    regions,
)


@dataclass
class Store(nl.NKIObject):
    """dK and dV in HBM and the (batch, head) they belong to.

    sums: [S', 1, slots, D] in HBM, dK in slot `slot` and dV in the next; None where PSUM suffices.
    shared: the other core adds to the same head, in slots of its own.
    """

    gradients: Tensor
    index: Tensor
    several: bool
    shared: bool
    sums: Tensor
    slot: int
    first: int  # key tiles [first, last) have been written (without sums)
    last: int


def open_store(
    problem: Problem,
    outputs: tuple[Tensor, ...],
    index: tuple[int, int],
    several: bool,
    shared: bool,
) -> Store:
    """Starts the gradients of the key/value head `index`; `several` sections will add to them."""
    core, num_cores = programs()
    store = Store(
        gradients=(outputs[1], outputs[2]),
        index=index,
        several=several or shared,
        shared=shared,
        sums=None,
        slot=2 * core if shared else 0,
        first=0,
        last=0,
    )
    if store.several:
        shape = (problem.num_keys, 1, 2 * num_cores if shared else 2, problem.head_dim)
        if shared:
            store.sums = nl.ndarray(shape, dtype=nl.float32, buffer=nl.shared_hbm)
        else:
            store.sums = nl.ndarray(shape, dtype=nl.float32, buffer=nl.private_hbm)
        for which in range(2):
            clear_rows(store.sums, (0, store.slot + which), 0, problem.num_keys)
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
            sums = load_rows(store.sums, first_row, num_rows, (0, store.slot + which))
            for rows, start, end in regions(num_rows):
                part = sums[0:rows, start:end, :]
                block = blocks[which][0:rows, start:end, :]
                nisa.tensor_tensor(dst=part, data1=part, data2=block, op=nl.add)
            copy_rows(store.sums, sums, first_row, num_rows, (0, store.slot + which), True)
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
    if store.several:
        round_sums(problem, store)
        return
    last_row = min(store.last * TILE, problem.num_keys)
    for which in range(2):
        hbm = store.gradients[which]
        clear_rows(hbm, store.index, 0, store.first * TILE)
        clear_rows(hbm, store.index, last_row, problem.num_keys - last_row)


def round_sums(problem: Problem, store: Store) -> None:
    """Writes the sums as gradients; two cores that share them take half of the keys each."""
    scales = (problem.scale, 1.0)
    first, last = 0, divide_up(problem.num_keys, TILE)
    if store.shared:
        nisa.core_barrier(data=store.sums, cores=(0, 1))
        first, last = core_tiles(last)
    for tile in range(first, last, BANK_TILES):
        first_row = tile * TILE
        num_rows = min(min(tile + BANK_TILES, last) * TILE, problem.num_keys) - first_row
        for which in range(2):
            sums = load_rows(store.sums, first_row, num_rows, (0, which))
            if store.shared:
                others = load_rows(store.sums, first_row, num_rows, (0, 2 + which))
                for rows, start, end in regions(num_rows):
                    part = sums[0:rows, start:end, :]
                    other = others[0:rows, start:end, :]
                    nisa.tensor_tensor(dst=part, data1=part, data2=other, op=nl.add)
            hbm = store.gradients[which]
            write_scaled(hbm, store.index, sums, first_row, num_rows, scales[which])

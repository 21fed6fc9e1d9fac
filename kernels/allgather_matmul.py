"""All-gather of a sequence shard fused with the matmul that consumes it, over a ring.

    y_tRF = allgather_matmul(x_RH, w_HF, num_ranks)     # y[r] = x of rank r @ w, on every rank

Algorithm: in step i a rank holds the shard of some rank r and at once (1) sends it to its successor
while the next shard arrives from its predecessor, (2) multiplies it into y[r]. The collective and
the matmuls of a step share no buffer that either writes, so that they overlap; only the first
matmul of the next step waits for the shard. t - 1 transfers are hidden behind t - 1 matmuls.

Layout: x [R, H] is this rank's shard, tokens x hidden; w [H, F] this rank's columns; y [t, R, F].
The contraction lies on the partitions, so the matmul wants x transposed. Each rank transposes its
own shard once and the ring moves x^T [H, R]: nobody transposes what arrives.

Tiling: 512 rows of a shard x 512 columns of w, one PSUM bank for each 128 rows, accumulated over
all of H. w stays in SBUF if it takes no more than 96 KiB a partition, else it streams.

Limits: H a multiple of 128 and, in bf16, at most 8192; any R and F; bf16 or fp32. Ranks 0 to t - 1
form the ring. Targets: gen3 and later (collectives). Grid: none or [2] (LNC2): rows of a shard are
split, the ring belongs to both cores.

Engine budget, trn2, H=4096, F=1536, R=1024 (t=8), bf16, for one step (derived from documented
cycles per instruction, never measured):
    TensorE  8 row tiles x 32 x 1536 cycles               164 us
    VectorE, ScalarE  24 evictions of 512 cycles each       7 us together
    DMA      8 MiB of x^T and 3 MiB of y                    31 us
    ring     8 MiB, hidden where the link gives 51 GB/s or more
"""

from dataclasses import dataclass
from typing import Any

import nki
import nki.collectives as ncc
import nki.isa as nisa
import nki.language as nl

from .row_tiles import (
    TILE,
    Tensor,
    copy_block,
    core_tiles,
    divide_up,
    evict,
    load_block,
    programs,
    rows_in_tile,
)

BANK = 512
"""fp32 columns of a PSUM bank, and the widest moving operand."""
BLOCK_TILES = 4
"""Row tiles that one load of w serves: 512 rows, 2.4 times what hides it behind its matmuls."""
RESIDENT_BYTES = 96 * 1024
MAX_HIDDEN_BYTES = 16 * 1024


@dataclass
class Weight(nl.NKIObject):
    """w [H, F] in HBM and, if it fits, in SBUF: a list of [P, H / 128, 512] column blocks."""

    hbm_HF: Tensor
    resident: bool
    blocks: Tensor


@nki.jit
def allgather_matmul(x_RH: Tensor, w_HF: Tensor, num_ranks: int) -> Tensor:
    """Returns y [t, R, F] in the dtype of x: y[r] is the shard of rank r times this rank's w.

    x [R, H], the same shape on all ranks; w [H, F] in the dtype of x; num_ranks: t, the ranks 0 to
    t - 1 of the ring. Raises AssertionError on a bad argument.
    """
    num_rows, hidden = x_RH.shape
    features = w_HF.shape[1]
    assert w_HF.shape[0] == hidden, f"w {w_HF.shape} does not fit x {x_RH.shape}"
    assert w_HF.dtype == x_RH.dtype, f"w is {w_HF.dtype}, but x is {x_RH.dtype}"
    assert x_RH.dtype in (nl.bfloat16, nl.float32), f"x must be bfloat16 or float32: {x_RH.dtype}"
    assert hidden % TILE == 0, f"hidden must be a multiple of {TILE}, got {hidden}"
    assert hidden * item_bytes(x_RH) <= MAX_HIDDEN_BYTES, (
        f"a row of x may take {MAX_HIDDEN_BYTES} bytes, got {hidden} of {x_RH.dtype}"
    )
    assert num_ranks >= 2, f"a ring needs at least 2 ranks, got {num_ranks}"
    y_tRF = nl.ndarray((num_ranks, num_rows, features), dtype=x_RH.dtype, buffer=nl.shared_hbm)
    ring = []
    for _ in range(2):
        ring.append(nl.ndarray((hidden, num_rows), dtype=x_RH.dtype, buffer=nl.shared_hbm))
    ranks = []
    for rank in range(num_ranks):
        ranks.append(rank)
    group = ncc.ReplicaGroup([ranks])
    transpose_shard(ring[0], x_RH)
    weight = load_weight(w_HF)
    for step in range(num_ranks):
        here = ring[step % 2]
        if step < num_ranks - 1:
            if programs()[1] > 1:
                # Neither core still writes what is sent, or reads what is overwritten. The
                # simulator lets a collective wait for both cores; no document promises that.
                nisa.core_barrier(data=here, cores=(0, 1))
            ncc.collective_permute_implicit(
                srcs_by_channel=[[here]],
                dsts_by_channel=[[ring[(step + 1) % 2]]],
                replica_group=group,
                channel_ids=[0],
            )
        owner = ncc.collective_permute_implicit_current_processing_rank_id(
            iteration_id=step, replica_group=group, channel_id=0
        )
        multiply_shard(y_tRF, here, weight, owner)
    return y_tRF


def item_bytes(tensor: Tensor) -> int:
    """Bytes of an element."""
    return 2 if tensor.dtype == nl.bfloat16 else 4


def transpose_shard(x_HR: Tensor, x_RH: Tensor) -> None:
    """x_HR = x_RH transposed, both in HBM, by 128 x 128 tiles; each core its share of the rows."""
    num_rows, hidden = x_RH.shape
    first, last = core_tiles(divide_up(num_rows, TILE))
    for tile in range(first, last):
        rows = rows_in_tile(tile, num_rows)
        x_tile = load_block(x_RH, tile * TILE, rows, 0, hidden)
        for column in range(0, hidden, TILE):
            bank = nl.ndarray((TILE, rows), dtype=x_RH.dtype, buffer=nl.psum)
            nisa.nc_transpose(
                dst=bank, data=x_tile[:, column : column + TILE], engine=nisa.engine.tensor
            )
            turned = nl.ndarray((TILE, rows), dtype=x_RH.dtype, buffer=nl.sbuf)
            evict(turned, bank, column // TILE % 2 == 1)
            copy_block(x_HR, turned, column, tile * TILE, True)


def load_weight(w_HF: Tensor) -> Weight:
    """Loads w into SBUF if it fits."""
    hidden, features = w_HF.shape
    resident = hidden // TILE * features * item_bytes(w_HF) <= RESIDENT_BYTES
    blocks = []
    if resident:
        for column in range(0, features, BANK):
            blocks.append(load_hidden(w_HF, column, min(BANK, features - column)))
    return Weight(hbm_HF=w_HF, resident=resident, blocks=blocks)


def load_hidden(src_HW: Tensor, column: int, width: int) -> Tensor:
    """Returns columns [column, +width) of src [H, W] as [P, H / 128, width]: h = 128 t + p."""
    hidden, total = src_HW.shape
    num_tiles = hidden // TILE
    tile = nl.ndarray((TILE, num_tiles, width), dtype=src_HW.dtype, buffer=nl.sbuf)
    block = src_HW.ap(pattern=[[total, TILE], [TILE * total, num_tiles], [1, width]], offset=column)
    nisa.dma_copy(dst=tile, src=block)
    return tile


def multiply_shard(y_tRF: Tensor, x_HR: Tensor, weight: Weight, owner: Any) -> None:
    """y[owner] = (x_HR)^T @ w: this core's rows, in blocks that share one load of w."""
    num_rows = x_HR.shape[1]
    features = y_tRF.shape[2]
    first, last = core_tiles(divide_up(num_rows, TILE))
    for block in range(first, last, BLOCK_TILES):
        begin = block * TILE
        end = min(min(block + BLOCK_TILES, last) * TILE, num_rows)
        x_PTR = load_hidden(x_HR, begin, end - begin)
        for column in range(0, features, BANK):
            width = min(BANK, features - column)
            if weight.resident:
                w_PTF = weight.blocks[column // BANK]
            else:
                w_PTF = load_hidden(weight.hbm_HF, column, width)
            for row in range(begin, end, TILE):
                rows = min(TILE, end - row)
                x_tile = x_PTR[:, :, row - begin : row - begin + rows]
                multiply_tile(y_tRF, x_tile, w_PTF, (owner, row, column))


def multiply_tile(y_tRF: Tensor, x_PTR: Tensor, w_PTF: Tensor, place: tuple[Any, int, int]) -> None:
    """One tile of y: [rows, 512 columns], accumulated over H in one PSUM bank."""
    owner, row, column = place
    _, num_tiles, rows = x_PTR.shape
    width = w_PTF.shape[2]
    features = y_tRF.shape[2]
    bank = nl.ndarray((rows, width), dtype=nl.float32, buffer=nl.psum)
    for tile in range(num_tiles):
        nisa.nc_matmul(dst=bank, stationary=x_PTR[:, tile, :], moving=w_PTF[:, tile, :])
    rounded = nl.ndarray((rows, width), dtype=y_tRF.dtype, buffer=nl.sbuf)
    evict(rounded, bank, column // BANK % 2 == 1)
    # The owner is known only at run time: it comes with the data.
    block = y_tRF.ap(
        pattern=[[features, rows], [1, width]],
        offset=row * features + column,
        scalar_offset=owner,
        indirect_dim=0,
    )
    nisa.dma_copy(dst=block, src=rounded)

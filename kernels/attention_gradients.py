"""One step of attention_backward: a row tile of queries passes a block of keys. Not a kernel.

All of it lies [q, k]: P and dS are stationary operands of dV += P^T dO and dK += dS^T Q as they
are, and only dS is transposed, for dQ += dS K.
"""

from dataclasses import dataclass

import nki.isa as nisa
import nki.language as nl

from .attention_masks import (
    BANK_KEYS,
    Problem,
    document_bounds,
    hide_documents,
    hide_edges,
    visible_tiles,
)
from .row_tiles import TILE, Tensor, rows_in_tile, transpose_blocks


@dataclass
class Queries(nl.NKIObject):
    """The row tiles [first, first + T) of one query head, their statistics and their dQ."""

    first: int
    q_PTD: Tensor
    q_DS: Tensor
    dout_PTD: Tensor
    dout_DS: Tensor
    bias_PT: Tensor  # -lse
    delta_PT: Tensor
    dq_PTD: Tensor
    started: Tensor


@dataclass
class Keys(nl.NKIObject):
    """The key tiles [first, last), at most one bank of scores, and their gradients in PSUM."""

    first: int
    last: int
    k_PTD: Tensor
    k_DS: Tensor
    v_DS: Tensor
    dk_PTD: Tensor
    dv_PTD: Tensor


def differentiate_tile(
    problem: Problem,
    masks: dict[str, Tensor],
    keys: Keys,
    heads: list[Queries],
    starts: Tensor,
    tile: int,
) -> None:
    """Lets row tile `tile` of every head of the group pass the keys that it sees."""
    first, last = visible_tiles(problem, tile)
    first = max(first, keys.first)
    last = min(last, keys.last)
    bounds = None
    if problem.documents and first < last:
        rows = rows_in_tile(tile, problem.num_queries)
        number = tile - heads[0].first
        bounds = document_bounds(starts[0:rows, number : number + 1], keys.first * TILE)
    if first < last:
        for queries in heads:
            differentiate(problem, masks, keys, queries, (tile, first, last), bounds)


def differentiate(
    problem: Problem,
    masks: dict[str, Tensor],
    keys: Keys,
    queries: Queries,
    tiles: tuple[int, int, int],
    bounds: Tensor,
) -> None:
    """One 128 x 512 tile (or less) of the gradients: row tile `tile`, key tiles [first, last)."""
    tile, first, last = tiles
    number = tile - queries.first
    rows = rows_in_tile(tile, problem.num_queries)
    begin = (first - keys.first) * TILE
    end = min(last * TILE, problem.num_keys) - keys.first * TILE
    probabilities, dscores = score_gradients(
        problem, masks, keys, queries, tiles, (begin, end), bounds
    )
    for key in range(first, last):
        width = rows_in_tile(key, problem.num_keys)
        left = (key - first) * TILE
        place = key - keys.first
        nisa.nc_matmul(
            dst=keys.dv_PTD[0:width, place, :],
            stationary=probabilities[:, left : left + width],
            moving=queries.dout_PTD[0:rows, number, :],
        )
        nisa.nc_matmul(
            dst=keys.dk_PTD[0:width, place, :],
            stationary=dscores[:, left : left + width],
            moving=queries.q_PTD[0:rows, number, :],
        )
    transposed = transpose_blocks(dscores, True)
    dq_psum = nl.ndarray((rows, problem.head_dim), dtype=nl.float32, buffer=nl.psum)
    for key in range(first, last):
        width = rows_in_tile(key, problem.num_keys)
        nisa.nc_matmul(
            dst=dq_psum,
            stationary=transposed[0:width, key - first, :],
            moving=keys.k_PTD[0:width, key - keys.first, :],
        )
    dq = queries.dq_PTD[0:rows, number, :]
    if queries.started[number]:
        nisa.tensor_tensor(dst=dq, data1=dq, data2=dq_psum, op=nl.add)
    else:
        nisa.tensor_copy(dst=dq, src=dq_psum)
    queries.started[number] = True


def score_gradients(
    problem: Problem,
    masks: dict[str, Tensor],
    keys: Keys,
    queries: Queries,
    tiles: tuple[int, int, int],
    columns: tuple[int, int],
    bounds: Tensor,
) -> tuple[Tensor, Tensor]:
    """P and dS [rows, keys] in the dtype of q; dS lacks the factor `scale`."""
    tile, first, last = tiles
    begin, end = columns
    number = tile - queries.first
    rows = rows_in_tile(tile, problem.num_queries)
    row = number * TILE
    q_DS = queries.q_DS[:, row : row + rows]
    score_bank = nl.ndarray((TILE, BANK_KEYS), dtype=nl.float32, buffer=nl.psum)
    scores = score_bank[0:rows, 0 : end - begin]
    nisa.nc_matmul(dst=scores, stationary=q_DS, moving=keys.k_DS[:, begin:end])
    for key in range(first, last):
        left = (key - first) * TILE
        width = rows_in_tile(key, problem.num_keys)
        hide_edges(problem, masks, scores[:, left : left + width], tile, key)
    if problem.documents:
        scores = hide_documents(scores, masks["positions"][0:rows, begin:end], bounds)
    probabilities = nl.ndarray((rows, end - begin), dtype=q_DS.dtype, buffer=nl.sbuf)
    nisa.activation(
        dst=probabilities,
        op=nl.exp,
        data=scores,
        bias=queries.bias_PT[0:rows, number : number + 1],
        scale=problem.scale,
    )
    dout_DS = queries.dout_DS[:, row : row + rows]
    gradient_bank = nl.ndarray((TILE, BANK_KEYS), dtype=nl.float32, buffer=nl.psum)
    dprobabilities = gradient_bank[0:rows, 0 : end - begin]
    nisa.nc_matmul(dst=dprobabilities, stationary=dout_DS, moving=keys.v_DS[:, begin:end])
    dscores = nl.ndarray((rows, end - begin), dtype=q_DS.dtype, buffer=nl.sbuf)
    nisa.scalar_tensor_tensor(
        dst=dscores,
        data=dprobabilities,
        op0=nl.subtract,
        operand0=queries.delta_PT[0:rows, number : number + 1],
        op1=nl.multiply,
        operand1=probabilities,
    )
    return probabilities, dscores

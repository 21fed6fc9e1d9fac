"""One step of attention_forward: 128 queries of one head see up to 1024 keys. Not a kernel.

Online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867): a row keeps its maximum m, its total
l and its sum o of exp(scale * (s - m)) * v; a new group of keys rescales l and o by
exp(scale * (m - m')). P lies [q, k] for the row statistics and is transposed on TensorE, because
the product with V contracts over keys, which must lie on the partitions.
"""

from dataclasses import dataclass

import nki.isa as nisa
import nki.language as nl

from .attention_masks import (
    BANK_KEYS,
    BANK_TILES,
    NO_KEY_LSE,
    Problem,
    hide_documents,
    hide_edges,
)
from .row_tiles import TILE, Tensor, divide_up, rows_in_tile, transpose_blocks

GROUP_TILES = 8
"""Key tiles between two updates of the running statistics: two banks of scores."""
VECTOR_EVICTS = 4
"""One in so many evictions of P^T goes to VectorE, which has the row maxima to find."""
LEAST_TOTAL = 1e-18
"""Where a row saw no key; inside the range of ScalarE's log."""


@dataclass
class Section(nl.NKIObject):
    """Keys [first, last) in tiles: K^T [D, keys], V [P, T, D]."""

    first: int
    last: int
    keys_DS: Tensor
    values_PTD: Tensor


@dataclass
class Query(nl.NKIObject):
    """A row tile of one head while keys stream past it; statistics [rows, 1] in fp32.

    maxima: the running maximum of the scores in column 0, then room for those of each bank.
    """

    tile: int
    rows: int
    q_DS: Tensor
    maxima: Tensor
    total: Tensor
    bias: Tensor
    sum_PD: Tensor
    started: bool


def make_maxima(rows: int) -> Tensor:
    """Room for the running maximum and those of the banks of a group."""
    shape = (rows, 1 + GROUP_TILES // BANK_TILES)
    return nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)


def attend(
    problem: Problem,
    masks: dict[str, Tensor],
    section: Section,
    query: Query,
    first: int,
    last: int,
    bounds: Tensor,
) -> None:
    """One step of the online softmax: 128 queries see the key tiles [first, last)."""
    num_banks = divide_up(last - first, BANK_TILES)
    scores = []
    for bank in range(num_banks):
        begin = first + bank * BANK_TILES
        end = min(begin + BANK_TILES, last)
        scores.append(score(problem, masks, section, query, begin, end, bounds))
        column = query.maxima[:, bank + 1 : bank + 2]
        nisa.tensor_reduce(dst=column, op=nl.maximum, data=scores[bank], axis=1)
    probabilities, alpha = exponentiate(problem, query, scores)
    out_psum = weigh_values(problem, section, query, probabilities, first, last)
    if query.started:
        nisa.scalar_tensor_tensor(
            dst=query.sum_PD,
            data=query.sum_PD,
            op0=nl.multiply,
            operand0=alpha,
            op1=nl.add,
            operand1=out_psum,
        )
    else:
        nisa.tensor_copy(dst=query.sum_PD, src=out_psum)
    query.started = True


def score(
    problem: Problem,
    masks: dict[str, Tensor],
    section: Section,
    query: Query,
    first: int,
    last: int,
    bounds: Tensor,
) -> Tensor:
    """Masked scores [rows, keys] of the key tiles [first, last) of one bank (not yet scaled)."""
    begin = (first - section.first) * TILE
    end = min(last * TILE, problem.num_keys) - section.first * TILE
    bank = nl.ndarray((TILE, BANK_KEYS), dtype=nl.float32, buffer=nl.psum)
    scores = bank[0 : query.rows, 0 : end - begin]
    nisa.nc_matmul(dst=scores, stationary=query.q_DS, moving=section.keys_DS[:, begin:end])
    for tile in range(first, last):
        column = (tile - first) * TILE
        width = rows_in_tile(tile, problem.num_keys)
        hide_edges(problem, masks, scores[:, column : column + width], query.tile, tile)
    if problem.documents:
        return hide_documents(scores, masks["positions"][0 : query.rows, begin:end], bounds)
    return scores


def exponentiate(
    problem: Problem, query: Query, scores: list[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """exp(scale * (scores - maximum)) in the dtype of q, and alpha; updates the statistics.

    Returns one tile [rows, keys] for each bank, and alpha = exp(scale * (old - new maximum)).
    """
    rows = query.rows
    old = query.maxima
    query.maxima = make_maxima(rows)
    known = old[:, 0 if query.started else 1 : len(scores) + 1]
    nisa.tensor_reduce(dst=query.maxima[:, 0:1], op=nl.maximum, data=known, axis=1)
    bias = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    # The bound keeps exp at 0, not exp(0), where every key so far is hidden.
    nisa.tensor_scalar(
        dst=bias,
        data=query.maxima[:, 0:1],
        op0=nl.multiply,
        operand0=-problem.scale,
        op1=nl.minimum,
        operand1=-NO_KEY_LSE,
    )
    query.bias = bias
    sums = nl.ndarray((rows, len(scores)), dtype=nl.float32, buffer=nl.sbuf)
    probabilities = []
    for bank in range(len(scores)):
        tile = nl.ndarray(scores[bank].shape, dtype=query.q_DS.dtype, buffer=nl.sbuf)
        nisa.activation_reduce(
            dst=tile,
            op=nl.exp,
            data=scores[bank],
            reduce_op=nl.add,
            reduce_res=sums[:, bank : bank + 1],
            bias=bias,
            scale=problem.scale,
        )
        probabilities.append(tile)
    alpha = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    if query.started:
        nisa.activation(dst=alpha, op=nl.exp, data=old[:, 0:1], bias=bias, scale=problem.scale)
    update_total(query, sums, alpha)
    return probabilities, alpha


def update_total(query: Query, sums: Tensor, alpha: Tensor) -> None:
    """total = total * alpha + the sums of all banks."""
    total = sums
    if sums.shape[1] > 1:
        total = nl.ndarray((query.rows, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=total, op=nl.add, data=sums, axis=1)
    if query.started:
        nisa.tensor_scalar(
            dst=total,
            data=query.total,
            op0=nl.multiply,
            operand0=alpha,
            op1=nl.add,
            operand1=total,
        )
    query.total = total


def weigh_values(
    problem: Problem,
    section: Section,
    query: Query,
    probabilities: list[Tensor],
    first: int,
    last: int,
) -> Tensor:
    """probabilities @ V in PSUM [rows, D] over the key tiles [first, last)."""
    out_psum = nl.ndarray((query.rows, problem.head_dim), dtype=nl.float32, buffer=nl.psum)
    for bank in range(len(probabilities)):
        begin = first + bank * BANK_TILES
        end = min(begin + BANK_TILES, last)
        on_scalar = (begin // BANK_TILES + query.tile) % VECTOR_EVICTS != 0
        transposed = transpose_blocks(probabilities[bank], on_scalar)
        for tile in range(begin, end):
            keys = rows_in_tile(tile, problem.num_keys)
            nisa.nc_matmul(
                dst=out_psum,
                stationary=transposed[0:keys, tile - begin, :],
                moving=section.values_PTD[0:keys, tile - section.first, :],
            )
    return out_psum


def normalize(query: Query, out: Tensor, lse: Tensor) -> None:
    """out = sum / total; lse = log(total) + scale * maximum."""
    total = nl.ndarray((query.rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=total, data=query.total, op0=nl.maximum, operand0=LEAST_TOTAL)
    inverse = nl.ndarray((query.rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.reciprocal(dst=inverse, data=total)
    nisa.activation(dst=out, op=nl.copy, data=query.sum_PD, scale=inverse)
    log = nl.ndarray((query.rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=log, op=nl.log, data=total)
    nisa.tensor_tensor(dst=lse, data1=log, data2=query.bias, op=nl.subtract)

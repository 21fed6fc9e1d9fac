"""Causal flash attention, forward, for grouped query heads.

    out_SBND, lse_BNS = attention_forward(q_SBND, k_SBKD, v_SBKD, starts_BS, scale, offset, window)

Algorithm: FlashAttention-2 (Dao 2023, arXiv:2307.08691). Queries lie on the partitions, so the
softmax statistics are one number a partition and the scale, the maximum and the row sum are
operands of the one activation that computes exp from PSUM.

Layout: the model's own, sequence first; no tensor is transposed in HBM. K, Q and the probabilities
are transposed on TensorE, 128 x 128 at a time, because gen2 has no DMA transpose.

Tiling: a block is 16 row tiles of queries (all heads of a group first). Keys stream past it in
sections of 8192 (bf16), loaded once for all the heads of the group: 4*D bytes a key serve 4*2048*D
FLOPs, and SBUF use does not depend on the sequence. A row tile attends to 1024 keys at a time (two
PSUM banks of scores); tiles of 128 x 128 that the mask empties are skipped.

Limits: D = 32, 64, 96 or 128; fewer than 131072 keys a call; bf16 (or fp32, for debugging); all
lengths. Targets: gen2 (API of NKI 0.2) to gen4. Grid: none or [2] (LNC2): heads are split.

Engine budget, trn2, D=128, bf16, for 128 queries x 512 keys (derived from documented cycles per
instruction, never measured):
    TensorE  1536 cycles  0.64 us: QK 512, transpose of P 512, PV 512
    VectorE   768 cycles  0.80 us: row maximum 512, a quarter of the evictions of P^T 64, small 192
    ScalarE   992 cycles  0.83 us: exp and row sum 576, the other evictions of P^T 384, small 32
    DMA      256 KiB of K and V for 16 row tiles, 0.05 us each
"""

import nki
import nki.isa as nisa
import nki.language as nl

from .attention_masks import (
    NO_KEY_LSE,
    Part,
    Problem,
    core_parts,
    document_bounds,
    make_masks,
    make_positions,
    make_problem,
    visible_tiles,
)
from .online_softmax import GROUP_TILES, Query, Section, attend, make_maxima, normalize
from .row_tiles import (
    LOAD_TILES,
    TILE,
    Tensor,
    copy_columns,
    copy_rows,
    divide_up,
    load_columns,
    load_rows,
    rows_in_tile,
    transpose_rows,
)

QUERY_TILES = 16
"""Row tiles of queries that a section of keys serves: 2048 rows, 10 times what hides its load."""


@nki.jit
def attention_forward(
    q_SBND: Tensor,
    k_SBKD: Tensor,
    v_SBKD: Tensor,
    starts_BS: Tensor | None = None,
    scale: float = 1.0,
    offset: int = 0,
    window: int = 0,
) -> tuple[Tensor, Tensor]:
    """Returns out [S, B, N, D] like q and the log-sum-exp [B, N, S] in fp32.

    q [S, B, N, D]; k, v [S', B, K, D] with N % K == 0: query head n uses key head n // (N / K).
    starts [B, S] int32 or fp32: the first key row that each query may see; None means 0.
    scale: factor of the scores. offset: position of query row 0, counted from key row 0 (context
    parallelism). window: number of keys visible to a query, its own included; 0 means all.
    A row that sees no key gives out = 0 and lse = -1e20. Raises AssertionError on a bad argument.
    """
    problem = make_problem(q_SBND, k_SBKD, v_SBKD, starts_BS, scale, offset, window)
    out_SBND = nl.ndarray(q_SBND.shape, dtype=q_SBND.dtype, buffer=nl.shared_hbm)
    lse_BNS = nl.ndarray(
        (problem.batch, problem.num_heads, problem.num_queries),
        dtype=nl.float32,
        buffer=nl.shared_hbm,
    )
    masks = make_masks(problem)
    if problem.documents:
        masks["positions"] = make_positions(min(problem.num_keys, section_tiles(k_SBKD) * TILE))
    tensors = (q_SBND, k_SBKD, v_SBKD, starts_BS, out_SBND, lse_BNS)
    for part in core_parts(problem):
        attend_group(problem, masks, tensors, part)
    return out_SBND, lse_BNS


def section_tiles(k_SBKD: Tensor) -> int:
    """Key tiles of a section: K^T and V take 32 KiB a partition."""
    return 64 if k_SBKD.dtype == nl.bfloat16 else 32


def attend_group(
    problem: Problem, masks: dict[str, Tensor], tensors: tuple[Tensor, ...], part: Part
) -> None:
    """All queries of the heads [first_head, last_head) that share one key/value head."""
    q_SBND, k_SBKD, v_SBKD, starts_BS, out_SBND, lse_BNS = tensors
    batch, kv_head, first_head, last_head = part
    num_tiles = divide_up(problem.num_queries, TILE)
    num_key_tiles = divide_up(problem.num_keys, TILE)
    block_tiles = max(1, QUERY_TILES // (last_head - first_head))
    step = section_tiles(k_SBKD)
    kv_index = (batch, kv_head)
    resident = num_key_tiles <= step
    if resident:
        section = load_section(k_SBKD, v_SBKD, kv_index, 0, num_key_tiles)
    for first in range(0, num_tiles, block_tiles):
        last = min(first + block_tiles, num_tiles)
        queries = []
        for head in range(first_head, last_head):
            queries.append(open_queries(problem, q_SBND, (batch, head), first, last))
        starts = None
        if problem.documents:
            row = batch * problem.num_queries + first * TILE
            starts = load_columns(starts_BS, row, rows_between(problem, first, last))
        first_key = visible_tiles(problem, first)[0]
        last_key = visible_tiles(problem, last - 1)[1]
        for key in range(first_key, last_key, num_key_tiles if resident else step):
            if not resident:
                end = min(key + step, last_key)
                section = load_section(k_SBKD, v_SBKD, kv_index, key, end)
            attend_section(problem, masks, section, queries, starts)
        for head in range(first_head, last_head):
            index = (batch, head)
            write_results(problem, queries[head - first_head], out_SBND, lse_BNS, index, first)


def rows_between(problem: Problem, first: int, last: int) -> int:
    """Query rows of the tiles [first, last)."""
    return min(last * TILE, problem.num_queries) - first * TILE


def load_section(
    k_SBKD: Tensor, v_SBKD: Tensor, index: tuple[int, int], first: int, last: int
) -> Section:
    """Loads K (transposed on the way) and V of the key tiles [first, last) of one (batch, head)."""
    num_keys, _, _, dim = k_SBKD.shape
    length = min(last * TILE, num_keys) - first * TILE
    keys_DS = nl.ndarray((dim, length), dtype=k_SBKD.dtype, buffer=nl.sbuf)
    values_PTD = nl.ndarray((TILE, last - first, dim), dtype=v_SBKD.dtype, buffer=nl.sbuf)
    copy_rows(v_SBKD, values_PTD, first * TILE, length, index, False)
    for start in range(0, length, LOAD_TILES * TILE):
        count = min(LOAD_TILES * TILE, length - start)
        rows_PTD = load_rows(k_SBKD, first * TILE + start, count, index)
        transpose_rows(keys_DS[:, start : start + count], rows_PTD, count)
    return Section(first=first, last=last, keys_DS=keys_DS, values_PTD=values_PTD)


def open_queries(
    problem: Problem, q_SBND: Tensor, index: tuple[int, int], first: int, last: int
) -> list[Query]:
    """Loads and transposes the row tiles [first, last) of one query head."""
    num_rows = rows_between(problem, first, last)
    rows_PTD = load_rows(q_SBND, first * TILE, num_rows, index)
    q_DS = nl.ndarray((problem.head_dim, num_rows), dtype=q_SBND.dtype, buffer=nl.sbuf)
    transpose_rows(q_DS, rows_PTD, num_rows)
    queries = []
    for tile in range(first, last):
        rows = rows_in_tile(tile, problem.num_queries)
        column = (tile - first) * TILE
        queries.append(
            Query(
                tile=tile,
                rows=rows,
                q_DS=q_DS[:, column : column + rows],
                maxima=make_maxima(rows),
                total=None,
                bias=None,
                sum_PD=nl.ndarray((rows, problem.head_dim), dtype=nl.float32, buffer=nl.sbuf),
                started=False,
            )
        )
    return queries


def attend_section(
    problem: Problem,
    masks: dict[str, Tensor],
    section: Section,
    queries: list[list[Query]],
    starts: Tensor,
) -> None:
    """Lets every row tile of a block see what it may of one section."""
    num_tiles = len(queries[0])
    for tile in range(num_tiles):
        first, last = visible_tiles(problem, queries[0][tile].tile)
        first = max(first, section.first)
        last = min(last, section.last)
        bounds = None
        if problem.documents and first < last:
            rows = queries[0][tile].rows
            bounds = document_bounds(starts[0:rows, tile : tile + 1], section.first * TILE)
        for head in range(len(queries)):
            for group in range(first, last, GROUP_TILES):
                end = min(group + GROUP_TILES, last)
                attend(problem, masks, section, queries[head][tile], group, end, bounds)


def write_results(
    problem: Problem,
    queries: list[Query],
    out_SBND: Tensor,
    lse_BNS: Tensor,
    index: tuple[int, int],
    first: int,
) -> None:
    """Normalizes the row tiles of one head and writes them and their log-sum-exp."""
    num_tiles = len(queries)
    shape = (TILE, num_tiles, problem.head_dim)
    out_PTD = nl.ndarray(shape, dtype=out_SBND.dtype, buffer=nl.sbuf)
    lse_PT = nl.ndarray((TILE, num_tiles), dtype=nl.float32, buffer=nl.sbuf)
    for number in range(num_tiles):
        query = queries[number]
        out = out_PTD[0 : query.rows, number, :]
        lse = lse_PT[0 : query.rows, number : number + 1]
        if query.started:
            normalize(query, out, lse)
        else:
            nisa.memset(dst=out, value=0.0)
            nisa.memset(dst=lse, value=NO_KEY_LSE)
    batch, head = index
    num_rows = rows_between(problem, first, first + num_tiles)
    copy_rows(out_SBND, out_PTD, first * TILE, num_rows, index, True)
    position = (batch * problem.num_heads + head) * problem.num_queries + first * TILE
    copy_columns(lse_BNS, lse_PT, position, num_rows, True)

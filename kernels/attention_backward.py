"""Causal flash attention, backward, for grouped query heads.

    dq, dk, dv = attention_backward(
        dout_SBND, q_SBND, k_SBKD, v_SBKD, out_SBND, lse_BNS, starts_BS, scale, offset, window
    )

Algorithm: FlashAttention-2 (Dao 2023, arXiv:2307.08691), keys outside, queries inside. For 128
queries on the partitions and 512 keys: P = exp(scale * S - lse) straight from PSUM, dP = dO V^T,
dS = (dP - delta) * P in one VectorE instruction, delta = rowsum(dO * O). P and dS are the
stationary operands of dV += P^T dO and dK += dS^T Q as they lie; only dS is transposed, for
dQ += dS K. dK and dV of 512 keys stay in PSUM while all queries of the group pass, dQ accumulates
in SBUF; all of it in fp32, rounded once.

Layout: the model's own, sequence first, like attention_forward; lse as that returns it.

Tiling: queries in sections of up to 64 row tiles (all heads of a group), held in SBUF with their
transposes and dQ; keys in blocks of 512, loaded and transposed once per section. With more than one
section, dK and dV travel between them through private HBM in fp32. Masked-out tiles are skipped.

Limits: those of attention_forward. Targets: gen2 (API of NKI 0.2) to gen4. Grid: none or [2]
(LNC2): groups of heads are split; where their number is odd, the cores share the heads of the last
one and add their dK and dV behind a core barrier.

Engine budget, trn2, D=128, bf16, for 128 queries x 512 keys (derived from documented cycles per
instruction, never measured):
    TensorE  3072 cycles  1.28 us: S, dP, dV, dK, dQ and the transposes of dS, 512 each
    VectorE   640 cycles  0.67 us: dS 512 (twice that if PSUM and SBUF inputs share a port), dQ 128
    ScalarE  1024 cycles  0.85 us: exp 512, evictions of dS^T 512
"""

import nki
import nki.isa as nisa
import nki.language as nl

from .attention_gradients import Keys, Queries, differentiate_tile
from .attention_masks import (
    BANK_KEYS,
    BANK_TILES,
    Part,
    Problem,
    check_like,
    core_parts,
    make_masks,
    make_positions,
    make_problem,
    visible_tiles,
)
from .attention_store import add_key_gradients, close_store, open_store
from .row_tiles import (
    LOAD_TILES,
    TILE,
    Tensor,
    copy_rows,
    divide_up,
    load_columns,
    load_rows,
    regions,
    rows_in_tile,
    transpose_rows,
)

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""q, k, v, dout, out, lse, starts."""
QUERY_BYTES = 96 * 1024
"""SBUF a partition for the queries of a section: q, dO, their transposes and dQ."""


@nki.jit
def attention_backward(
    dout_SBND: Tensor,
    q_SBND: Tensor,
    k_SBKD: Tensor,
    v_SBKD: Tensor,
    out_SBND: Tensor,
    lse_BNS: Tensor,
    starts_BS: Tensor | None = None,
    scale: float = 1.0,
    offset: int = 0,
    window: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns dq [S, B, N, D], dk and dv [S', B, K, D], each like its tensor.

    dout and out [S, B, N, D] and lse [B, N, S] fp32 belong to a call of attention_forward with the
    same remaining arguments. In context parallelism lse and out are those of the merged result.
    Raises AssertionError on a bad argument.
    """
    problem = make_problem(q_SBND, k_SBKD, v_SBKD, starts_BS, scale, offset, window)
    check_like(q_SBND, dout_SBND, "dout")
    check_like(q_SBND, out_SBND, "out")
    lse_shape = (problem.batch, problem.num_heads, problem.num_queries)
    assert lse_BNS.shape == lse_shape, f"lse must be [B, N, S] = {lse_shape}, got {lse_BNS.shape}"
    assert lse_BNS.dtype == nl.float32, f"lse must be float32, got {lse_BNS.dtype}"
    dq_SBND = nl.ndarray(q_SBND.shape, dtype=q_SBND.dtype, buffer=nl.shared_hbm)
    dk_SBKD = nl.ndarray(k_SBKD.shape, dtype=k_SBKD.dtype, buffer=nl.shared_hbm)
    dv_SBKD = nl.ndarray(v_SBKD.shape, dtype=v_SBKD.dtype, buffer=nl.shared_hbm)
    masks = make_masks(problem)
    if problem.documents:
        masks["positions"] = make_positions(BANK_KEYS)
    inputs = (q_SBND, k_SBKD, v_SBKD, dout_SBND, out_SBND, lse_BNS, starts_BS)
    outputs = (dq_SBND, dk_SBKD, dv_SBKD)
    for part in core_parts(problem):
        differentiate_group(problem, masks, inputs, outputs, part)
    return dq_SBND, dk_SBKD, dv_SBKD


def section_tiles(problem: Problem, q_SBND: Tensor) -> int:
    """Row tiles of each query head that a section holds."""
    item = 2 if q_SBND.dtype == nl.bfloat16 else 4
    tile_bytes = (2 * problem.head_dim + 2 * TILE) * item + 4 * problem.head_dim
    return max(1, QUERY_BYTES // tile_bytes // problem.group)


def differentiate_group(
    problem: Problem,
    masks: dict[str, Tensor],
    inputs: Inputs,
    outputs: tuple[Tensor, ...],
    part: Part,
) -> None:
    """All gradients of one key/value head and the query heads that share it."""
    batch, kv_head, first_head, last_head = part
    step = section_tiles(problem, inputs[0])
    num_tiles = divide_up(problem.num_queries, TILE)
    # An odd last group is shared with the other core, if it has a head for each.
    shared = problem.group > 1 and last_head - first_head < problem.group
    store = open_store(problem, outputs, (batch, kv_head), num_tiles > step, shared)
    for first in range(0, num_tiles, step):
        last = min(first + step, num_tiles)
        starts = None
        if problem.documents:
            row = batch * problem.num_queries + first * TILE
            starts = load_columns(inputs[6], row, rows_between(problem, first, last))
        heads = []
        for head in range(first_head, last_head):
            heads.append(open_queries(problem, inputs, (batch, head), first, last))
        # The tiles that a section sees are contiguous, as are those that one row tile sees.
        first_key = visible_tiles(problem, first)[0]
        last_key = visible_tiles(problem, last - 1)[1]
        for key in range(first_key, last_key, BANK_TILES):
            end = min(key + BANK_TILES, last_key)
            keys = open_keys(problem, inputs, (batch, kv_head), key, end)
            for tile in range(first, last):
                differentiate_tile(problem, masks, keys, heads, starts, tile)
            add_key_gradients(problem, store, keys)
        for head in range(first_head, last_head):
            queries = heads[head - first_head]
            store_query_gradients(problem, queries, outputs[0], (batch, head), last)
    close_store(problem, store)


def rows_between(problem: Problem, first: int, last: int) -> int:
    """Query rows of the tiles [first, last)."""
    return min(last * TILE, problem.num_queries) - first * TILE


def open_queries(
    problem: Problem, inputs: Inputs, index: tuple[int, int], first: int, last: int
) -> Queries:
    """Loads what the row tiles [first, last) of one query head need, and starts their dQ."""
    q_SBND, _, _, dout_SBND, out_SBND, lse_BNS, _ = inputs
    num_rows = rows_between(problem, first, last)
    num_tiles = last - first
    q_PTD = load_rows(q_SBND, first * TILE, num_rows, index)
    dout_PTD = load_rows(dout_SBND, first * TILE, num_rows, index)
    q_DS = nl.ndarray((problem.head_dim, num_rows), dtype=q_SBND.dtype, buffer=nl.sbuf)
    dout_DS = nl.ndarray((problem.head_dim, num_rows), dtype=q_SBND.dtype, buffer=nl.sbuf)
    transpose_rows(q_DS, q_PTD, num_rows)
    transpose_rows(dout_DS, dout_PTD, num_rows)
    batch, head = index
    position = (batch * problem.num_heads + head) * problem.num_queries + first * TILE
    bias_PT = load_columns(lse_BNS, position, num_rows)
    for rows, start, end in regions(num_rows):
        part = bias_PT[0:rows, start:end]
        nisa.tensor_scalar(dst=part, data=part, op0=nl.multiply, operand0=-1.0)
    delta_PT = nl.ndarray((TILE, num_tiles), dtype=nl.float32, buffer=nl.sbuf)
    for start in range(0, num_tiles, LOAD_TILES):
        end = min(start + LOAD_TILES, num_tiles)
        count = min(num_rows, end * TILE) - start * TILE
        out_PTD = load_rows(out_SBND, (first + start) * TILE, count, index)
        row_products(delta_PT[:, start:end], dout_PTD[:, start:end, :], out_PTD, count)
    shape = (TILE, num_tiles, problem.head_dim)
    started = []
    for _ in range(num_tiles):
        started.append(False)
    return Queries(
        first=first,
        q_PTD=q_PTD,
        q_DS=q_DS,
        dout_PTD=dout_PTD,
        dout_DS=dout_DS,
        bias_PT=bias_PT,
        delta_PT=delta_PT,
        dq_PTD=nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf),
        started=started,
    )


def row_products(sums_PT: Tensor, left_PTD: Tensor, right_PTD: Tensor, num_rows: int) -> None:
    """sums[p, t] = sum over D of left * right, in fp32."""
    product = nl.ndarray(right_PTD.shape, dtype=nl.float32, buffer=nl.sbuf)
    for rows, start, end in regions(num_rows):
        part = product[0:rows, start:end, :]
        left = left_PTD[0:rows, start:end, :]
        right = right_PTD[0:rows, start:end, :]
        nisa.tensor_tensor(dst=part, data1=left, data2=right, op=nl.multiply)
        nisa.tensor_reduce(dst=sums_PT[0:rows, start:end], op=nl.add, data=part, axis=2)


def open_keys(
    problem: Problem, inputs: Inputs, index: tuple[int, int], first: int, last: int
) -> Keys:
    """Loads and transposes the key tiles [first, last) and allocates their gradients in PSUM."""
    _, k_SBKD, v_SBKD, _, _, _, _ = inputs
    num_rows = min(last * TILE, problem.num_keys) - first * TILE
    k_PTD = load_rows(k_SBKD, first * TILE, num_rows, index)
    v_PTD = load_rows(v_SBKD, first * TILE, num_rows, index)
    k_DS = nl.ndarray((problem.head_dim, num_rows), dtype=k_SBKD.dtype, buffer=nl.sbuf)
    v_DS = nl.ndarray((problem.head_dim, num_rows), dtype=k_SBKD.dtype, buffer=nl.sbuf)
    transpose_rows(k_DS, k_PTD, num_rows)
    transpose_rows(v_DS, v_PTD, num_rows)
    shape = (TILE, last - first, problem.head_dim)
    return Keys(
        first=first,
        last=last,
        k_PTD=k_PTD,
        k_DS=k_DS,
        v_DS=v_DS,
        dk_PTD=nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum),
        dv_PTD=nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum),
    )


def store_query_gradients(
    problem: Problem, queries: Queries, dq_SBND: Tensor, index: tuple[int, int], last: int
) -> None:
    """Scales, rounds and writes the dQ of one head."""
    num_rows = rows_between(problem, queries.first, last)
    dq_PTD = nl.ndarray(queries.dq_PTD.shape, dtype=dq_SBND.dtype, buffer=nl.sbuf)
    for tile in range(queries.first, last):
        number = tile - queries.first
        rows = rows_in_tile(tile, problem.num_queries)
        part = dq_PTD[0:rows, number, :]
        if queries.started[number]:
            data = queries.dq_PTD[0:rows, number, :]
            nisa.activation(dst=part, op=nl.copy, data=data, scale=problem.scale)
        else:
            nisa.memset(dst=part, value=0.0)
    copy_rows(dq_SBND, dq_PTD, queries.first * TILE, num_rows, index, True)

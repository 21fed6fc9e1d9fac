"""What the two attention kernels share: the problem, which tiles it has, and its masks.

Legend of shapes: S sequence, B batch, N query heads, K key/value heads, D head dim.

Query row i has the global position `offset + i`, key row j the position j. The key is visible iff

    starts[i] <= j <= offset + i    and, with a window,    j > offset + i - window

The part that is known when the kernel is compiled (offset, window) decides which tiles are skipped
and which get a mask; `starts` is data and costs one VectorE instruction a tile (`hide_documents`).
"""

from dataclasses import dataclass

import nki.isa as nisa
import nki.language as nl

from .row_tiles import TILE, Tensor, divide_up, programs, rows_in_tile

Part = tuple[int, int, int, int]
"""(batch, key/value head, first, last query head): what a core does at a time."""

BANK_TILES = 4
"""Key tiles in one PSUM bank of fp32 scores: 512 columns, the widest moving operand of gen2/3."""
BANK_KEYS = BANK_TILES * TILE
MASKED = -1e30
"""Added to a hidden score; far below any score, far above the least fp32."""
DOCUMENT_STEP = 1.2676506002282294e30  # 2^100, exact: see hide_documents
NO_KEY_LSE = -1e20
"""Log-sum-exp of a row that sees no key (finite, so that merging two results needs no branch)."""


@dataclass
class Problem(nl.NKIObject):
    """The compile-time facts of one call."""

    num_queries: int
    num_keys: int
    batch: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    group: int
    scale: float
    offset: int
    window: int
    documents: bool


def check_like(tensor: Tensor, other: Tensor, name: str) -> None:
    """Requires `other`, called `name`, to have the shape and dtype of `tensor`."""
    assert other.shape == tensor.shape, f"{name} must be {tensor.shape}, got {other.shape}"
    assert other.dtype == tensor.dtype, f"{name} must be {tensor.dtype}, got {other.dtype}"


def make_problem(
    q_SBND: Tensor,
    k_SBKD: Tensor,
    v_SBKD: Tensor,
    starts_BS: Tensor,
    scale: float,
    offset: int,
    window: int,
) -> Problem:
    """Checks the arguments of either kernel and returns their Problem."""
    assert len(q_SBND.shape) == 4, f"q must be [S, B, N, D], got shape {q_SBND.shape}"
    assert len(k_SBKD.shape) == 4, f"k must be [S, B, K, D], got shape {k_SBKD.shape}"
    num_queries, batch, num_heads, head_dim = q_SBND.shape
    num_keys, k_batch, num_kv_heads, k_dim = k_SBKD.shape
    assert (k_batch, k_dim) == (batch, head_dim), (
        f"k {k_SBKD.shape} does not fit q {q_SBND.shape}: batch and head dim must be equal"
    )
    check_like(k_SBKD, v_SBKD, "v")
    assert k_SBKD.dtype == q_SBND.dtype, f"k is {k_SBKD.dtype}, but q is {q_SBND.dtype}"
    assert q_SBND.dtype in (nl.bfloat16, nl.float32), (
        f"q must be bfloat16 or float32, got {q_SBND.dtype}"
    )
    assert num_heads % num_kv_heads == 0, (
        f"{num_heads} query heads cannot share {num_kv_heads} key/value heads evenly"
    )
    assert head_dim in (32, 64, 96, 128), f"head dim must be 32, 64, 96 or 128, got {head_dim}"
    assert num_keys < 2**17, f"at most {2**17 - 1} keys in one call, got {num_keys}"
    assert scale > 0.0, f"scale must be positive, got {scale}"
    assert window >= 0, f"window must be 0 (none) or a number of keys, got {window}"
    documents = starts_BS != None  # noqa: E711  (NKI has no `is`)
    if documents:
        assert starts_BS.shape == (batch, num_queries), (
            f"starts must be [B, S] = {(batch, num_queries)}, got {starts_BS.shape}"
        )
    return Problem(
        num_queries=num_queries,
        num_keys=num_keys,
        batch=batch,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        group=num_heads // num_kv_heads,
        scale=scale,
        offset=offset,
        window=window,
        documents=documents,
    )


# ---- which tiles exist ------------------------------------------------------------------------


def visible_tiles(problem: Problem, query_tile: int) -> tuple[int, int]:
    """The key tiles [first, last) of which query tile `query_tile` sees at least one key."""
    first_position = problem.offset + query_tile * TILE
    last_position = first_position + rows_in_tile(query_tile, problem.num_queries) - 1
    last = min(divide_up(problem.num_keys, TILE), last_position // TILE + 1)
    first = 0
    if problem.window > 0:
        first = max(0, first_position - problem.window + 1) // TILE
    return min(first, max(last, 0)), max(last, 0)


def edge_deltas(shift: int) -> list[int]:
    """The distances d (-128 < d < 128, d = shift mod 128) at which an edge cuts a tile.

    An edge hides key f from query p of a tile where f > p + d. All tiles start at multiples of
    128, so at most two distances occur.
    """
    remainder = shift % TILE
    if remainder == 0:
        return [0]
    return [remainder, remainder - TILE]


def core_parts(problem: Problem) -> list[Part]:
    """What this core computes: a list of (batch, key/value head, first, last query head).

    Whole groups go to the cores in turn; the heads of an odd last one are split.
    """
    core, num_cores = programs()
    num_groups = problem.batch * problem.num_kv_heads
    even = num_groups - num_groups % num_cores
    parts = []
    for number in range(num_groups):
        first = 0
        last = problem.group
        if number >= even:
            first = problem.group * core // num_cores
            last = problem.group * (core + 1) // num_cores
        elif number % num_cores != core:
            last = 0
        if last > first:
            head = number % problem.num_kv_heads
            start = head * problem.group
            parts.append((number // problem.num_kv_heads, head, start + first, start + last))
    return parts


# ---- masks ------------------------------------------------------------------------------------


def make_identity() -> Tensor:
    """[128, 128] bf16 identity: the stationary operand that adds a mask to scores in PSUM."""
    ones = nl.ndarray((TILE, TILE), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.memset(dst=ones, value=1.0)
    identity = nl.ndarray((TILE, TILE), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.affine_select(
        dst=identity,
        pattern=[[-1, TILE]],
        offset=0,
        channel_multiplier=1,
        on_true_tile=ones,
        on_false_value=0.0,
        cmp_op=nl.equal,
    )
    return identity


def make_edge(delta: int, hide_above: bool) -> Tensor:
    """[128, 128] bf16, MASKED where key f > p + delta (hide_above) or f <= p + delta, else 0."""
    zeros = nl.ndarray((TILE, TILE), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.memset(dst=zeros, value=0.0)
    mask = nl.ndarray((TILE, TILE), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.affine_select(
        dst=mask,
        pattern=[[-1, TILE]],
        offset=delta,
        channel_multiplier=1,
        on_true_tile=zeros,
        on_false_value=MASKED,
        cmp_op=nl.greater_equal if hide_above else nl.less,
    )
    return mask


def make_masks(problem: Problem) -> dict[str, Tensor]:
    """The identity and every edge mask of this problem, by name (see `hide_edges`)."""
    masks = {"identity": make_identity()}
    for delta in edge_deltas(problem.offset):
        masks[f"future{delta}"] = make_edge(delta, True)
    if problem.window > 0:
        for delta in edge_deltas(problem.offset - problem.window):
            masks[f"past{delta}"] = make_edge(delta, False)
    return masks


def add_mask(scores: Tensor, mask: Tensor, identity: Tensor) -> None:
    """scores[q, k] += mask, by a matmul with the identity: no engine but TensorE touches them."""
    num_queries, num_keys = scores.shape
    nisa.nc_matmul(
        dst=scores,
        stationary=identity[0:num_queries, 0:num_queries],
        moving=mask[0:num_queries, 0:num_keys],
    )


def hide_edges(
    problem: Problem, masks: dict[str, Tensor], scores: Tensor, query_tile: int, key_tile: int
) -> None:
    """Masks scores [q, k] of one 128 x 128 tile in PSUM where an edge cuts it."""
    num_queries, num_keys = scores.shape
    delta = problem.offset + (query_tile - key_tile) * TILE
    if num_keys - 1 > delta:
        add_mask(scores, masks[f"future{delta}"], masks["identity"])
    past = delta - problem.window
    if problem.window > 0 and num_queries - 1 + past >= 0:
        add_mask(scores, masks[f"past{past}"], masks["identity"])


def make_positions(num_keys: int) -> Tensor:
    """[128, num_keys] fp32: column k holds k * 2^100 on every partition."""
    positions = nl.ndarray((TILE, num_keys), dtype=nl.float32, buffer=nl.sbuf)
    nisa.iota(dst=positions, pattern=[[1, num_keys]], offset=0, channel_multiplier=0)
    nisa.tensor_scalar(dst=positions, data=positions, op0=nl.multiply, operand0=DOCUMENT_STEP)
    return positions


def document_bounds(starts: Tensor, first_key: int) -> Tensor:
    """[q, 1] fp32: (starts - first_key - 1/2) * 2^100, the bound of `hide_documents`."""
    bounds = nl.ndarray(starts.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=bounds,
        data=starts,
        op0=nl.subtract,
        operand0=first_key + 0.5,
        op1=nl.multiply,
        operand1=DOCUMENT_STEP,
    )
    return bounds


def hide_documents(scores: Tensor, positions: Tensor, bounds: Tensor) -> Tensor:
    """Returns scores [q, k] in SBUF with the keys before each query's document hidden.

    One instruction: min((k - start + 1/2) * 2^100, score). The first operand is above 2^98 from
    the document's first key on and below -2^98 before it; fp32 holds it exactly.
    """
    masked = nl.ndarray(scores.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.scalar_tensor_tensor(
        dst=masked,
        data=positions,
        op0=nl.subtract,
        operand0=bounds,
        op1=nl.minimum,
        operand1=scores,
    )
    return masked

"""RMSNorm of each query and key head and rotary embedding, fused, forward and backward.

    q_out, k_out = qk_norm_rope_forward(q_SBND, k_SBKD, q_weight_D, k_weight_D, cos, sin, eps)
    dq, dk, dq_weight, dk_weight = qk_norm_rope_backward(
        dq_out_SBND, dk_out_SBKD, q_SBND, k_SBKD, q_weight_D, k_weight_D, cos, sin, eps
    )

Algorithm: n = x * r, r = 1 / sqrt(mean(x^2) + eps) per head; the halves (1, 2) of weight * n are
rotated: y1 = w1 n1 cos - w2 n2 sin, y2 = w2 n2 cos + w1 n1 sin (Llama's half-split form). The
weights are folded into the tables, so that each product is one instruction: (x * r) * table. The
backward turns dy back, recomputes r, and keeps nothing from the forward.

Layout: tokens of one batch row on the partitions, heads and head dim on the free dimension; tables
cos and sin are [S, B, 1, D/2]. Half an instruction never crosses a head.

Tiling: 128 tokens x 16 heads. dweight is a sum over partitions: a matmul of (128 x D) with a column
of ones, accumulated over all heads and tokens of a core in one PSUM column.

Limits: D even, at most 128; any number of tokens and heads; bf16 or fp32. Targets: gen2 (API of NKI
0.2) to gen4. Grid: none or [2] (LNC2): tokens are split; dweight meets behind a core barrier.

Engine budget, trn2, D=128, bf16, for 128 tokens of one head (derived from documented cycles per
instruction, never measured):
    forward   DMA 64 KiB 0.18 us; VectorE 4 x 64..128 + 3 x 128 cycles 0.7..0.9 us; ScalarE 0.11 us
    backward  DMA 96 KiB 0.27 us; VectorE 1500..1900 cycles 1.6..2.0 us; ScalarE 0.33 us
"""

from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from .rmsnorm import store_column_sums
from .rope_tiles import fold_weight, load_tokens, rotate, turn_back
from .row_tiles import TILE, Tensor, core_tiles, divide_up, load_broadcast, rows_in_tile

HEADS = 16
"""Heads of one wide instruction: 4 KiB a partition in bf16 at D=128."""


def check_heads(
    x_SBND: Tensor, weight_D: Tensor, cos_SB1E: Tensor, sin_SB1E: Tensor, name: str
) -> None:
    """Checks one of the two tensors against its weight and the tables."""
    assert len(x_SBND.shape) == 4, f"{name} must be [S, B, heads, D], got {x_SBND.shape}"
    sequence, batch, _, dim = x_SBND.shape
    assert dim % 2 == 0, f"head dim must be even, got {dim}"
    assert dim <= TILE, f"head dim must be at most {TILE}, got {dim}"
    assert weight_D.shape == (dim,), f"weight of {name} must be [{dim}], got {weight_D.shape}"
    table = (sequence, batch, 1, dim // 2)
    assert cos_SB1E.shape == table, f"cos must be {table} for {name}, got {cos_SB1E.shape}"
    assert sin_SB1E.shape == table, f"sin must be {table} for {name}, got {sin_SB1E.shape}"
    assert x_SBND.dtype in (nl.bfloat16, nl.float32), (
        f"{name} must be bfloat16 or float32, got {x_SBND.dtype}"
    )


@nki.jit
def qk_norm_rope_forward(
    q_SBND: Tensor,
    k_SBKD: Tensor,
    q_weight_D: Tensor,
    k_weight_D: Tensor,
    cos_SB1E: Tensor,
    sin_SB1E: Tensor,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Returns q_out like q and k_out like k.

    q [S, B, N, D], k [S, B, K, D] bf16 or fp32; weights [D]; cos and sin [S, B, 1, D/2] fp32.
    Raises AssertionError on a bad argument.
    """
    outputs = []
    for x, weight_D, name in ((q_SBND, q_weight_D, "q"), (k_SBKD, k_weight_D, "k")):
        check_heads(x, weight_D, cos_SB1E, sin_SB1E, name)
        y = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        norm_rope(y, x, weight_D, cos_SB1E, sin_SB1E, eps)
        outputs.append(y)
    return outputs[0], outputs[1]


def make_eps(eps: float) -> Tensor:
    """[128, 1] fp32: gen2 takes the bias of an activation from a tile only."""
    eps_P1 = nl.ndarray((TILE, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=eps_P1, value=eps)
    return eps_P1


def norm_rope(
    y_SBND: Tensor, x_SBND: Tensor, weight_D: Tensor, cos_SB1E: Tensor, sin_SB1E: Tensor, eps: float
) -> None:
    """The forward of q or k."""
    sequence, batch_size, num_heads, _ = x_SBND.shape
    weight = load_broadcast(weight_D)
    eps_P1 = make_eps(eps)
    first, last = core_tiles(divide_up(sequence, TILE))
    for tile in range(first, last):
        row = tile * TILE
        rows = rows_in_tile(tile, sequence)
        for batch in range(batch_size):
            cos = load_tokens(cos_SB1E, row, rows, batch, 0, 1)
            sin = load_tokens(sin_SB1E, row, rows, batch, 0, 1)
            tables = fold_weight(weight, cos, sin)
            for head in range(0, num_heads, HEADS):
                count = min(HEADS, num_heads - head)
                x = load_tokens(x_SBND, row, rows, batch, head, count)
                r = inverse_rms_of(x, eps_P1)
                y = nl.ndarray(x.shape, dtype=x_SBND.dtype, buffer=nl.sbuf)
                rotate(y, x, r, tables)
                out = y_SBND[row : row + rows, batch, head : head + count, :]
                nisa.dma_copy(dst=out, src=y)


def inverse_rms_of(x: Tensor, eps_P1: Tensor) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over D: [rows, heads] fp32 for x [rows, heads, D]."""
    rows, heads, dim = x.shape
    squares = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=squares, op=nl.square, data=x)
    sums = nl.ndarray((rows, heads), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=sums, op=nl.add, data=squares, axis=2)
    r = nl.ndarray((rows, heads), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=r, op=nl.rsqrt, data=sums, bias=eps_P1[0:rows, :], scale=1.0 / dim)
    return r


@nki.jit
def qk_norm_rope_backward(
    dq_out_SBND: Tensor,
    dk_out_SBKD: Tensor,
    q_SBND: Tensor,
    k_SBKD: Tensor,
    q_weight_D: Tensor,
    k_weight_D: Tensor,
    cos_SB1E: Tensor,
    sin_SB1E: Tensor,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns dq, dk like q, k, and dq_weight, dk_weight [D] in fp32.

    The arguments of qk_norm_rope_forward after the gradients of its results.
    Raises AssertionError on a bad argument.
    """
    gradients = []
    weight_gradients = []
    for dy, x, weight_D, name in (
        (dq_out_SBND, q_SBND, q_weight_D, "q"),
        (dk_out_SBKD, k_SBKD, k_weight_D, "k"),
    ):
        check_heads(x, weight_D, cos_SB1E, sin_SB1E, name)
        assert dy.shape == x.shape, f"gradient of {name} must be {x.shape}, got {dy.shape}"
        dx = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        dweight_D = nl.ndarray(weight_D.shape, dtype=nl.float32, buffer=nl.shared_hbm)
        norm_rope_gradients(dx, dweight_D, dy, x, weight_D, (cos_SB1E, sin_SB1E), eps)
        gradients.append(dx)
        weight_gradients.append(dweight_D)
    return gradients[0], gradients[1], weight_gradients[0], weight_gradients[1]


def norm_rope_gradients(
    dx_SBND: Tensor,
    dweight_D: Tensor,
    dy_SBND: Tensor,
    x_SBND: Tensor,
    weight_D: Tensor,
    tables: tuple[Tensor, Tensor],
    eps: float,
) -> None:
    """The backward of q or k."""
    sequence, batch_size, num_heads, dim = x_SBND.shape
    weight = load_broadcast(weight_D)
    eps_P1 = make_eps(eps)
    ones = nl.ndarray((TILE, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=ones, value=1.0)
    dweight_PC = nl.ndarray((dim, 1), dtype=nl.float32, buffer=nl.psum)
    first, last = core_tiles(divide_up(sequence, TILE))
    for tile in range(first, last):
        row = tile * TILE
        rows = rows_in_tile(tile, sequence)
        for batch in range(batch_size):
            cos = load_tokens(tables[0], row, rows, batch, 0, 1)
            sin = load_tokens(tables[1], row, rows, batch, 0, 1)
            for head in range(0, num_heads, HEADS):
                count = min(HEADS, num_heads - head)
                x = load_tokens(x_SBND, row, rows, batch, head, count)
                dy = load_tokens(dy_SBND, row, rows, batch, head, count)
                r = inverse_rms_of(x, eps_P1)
                turned = turn_back(dy, cos, sin)
                normed = scale_heads(x, r, nl.float32)
                product = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
                nisa.tensor_tensor(dst=product, data1=turned, data2=normed, op=nl.multiply)
                for number in range(count):
                    nisa.nc_matmul(
                        dst=dweight_PC, stationary=product[:, number, :], moving=ones[0:rows, :]
                    )
                inner = differentiate_norm(turned, normed, product, weight[0:rows, :])
                dx = scale_heads(inner, r, dx_SBND.dtype)
                out = dx_SBND[row : row + rows, batch, head : head + count, :]
                nisa.dma_copy(dst=out, src=dx)
    store_column_sums(dweight_D, dweight_PC, last > first)


def scale_heads(x: Tensor, factors: Tensor, dtype: Any) -> Tensor:
    """x [rows, heads, D] * factors [rows, heads], on ScalarE."""
    scaled = nl.ndarray(x.shape, dtype=dtype, buffer=nl.sbuf)
    for head in range(x.shape[1]):
        nisa.activation(
            dst=scaled[:, head, :],
            op=nl.copy,
            data=x[:, head, :],
            scale=factors[:, head : head + 1],
        )
    return scaled


def differentiate_norm(turned: Tensor, normed: Tensor, product: Tensor, weight: Tensor) -> Tensor:
    """turned * weight - normed * mean(product * weight) over D; overwrites turned and product."""
    rows, heads, dim = turned.shape
    for head in range(heads):
        for tile in (turned, product):
            part = tile[:, head, :]
            nisa.tensor_tensor(dst=part, data1=part, data2=weight, op=nl.multiply)
    means = nl.ndarray((rows, heads), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=means, op=nl.add, data=product, axis=2)
    nisa.tensor_scalar(dst=means, data=means, op0=nl.multiply, operand0=1.0 / dim)
    inner = nl.ndarray(turned.shape, dtype=nl.float32, buffer=nl.sbuf)
    for head in range(heads):
        nisa.scalar_tensor_tensor(
            dst=inner[:, head, :],
            data=normed[:, head, :],
            op0=nl.multiply,
            operand0=means[:, head : head + 1],
            op1=nl.subtract,
            operand1=turned[:, head, :],
            reverse1=True,
        )
    return inner

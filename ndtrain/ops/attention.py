"""Causal attention, optionally inside documents, with grouped query heads.

    out, lse = attention(q_SBND, k_SBKD, v_SBKD, starts_BS, scale, implementation)

S sequence, B batch, N query heads, K key/value heads (N % K == 0; query head n uses key head
n // (N / K)), D head dim. Query i attends to the keys j with starts[i] <= j <= i: `starts_BS` holds
the row index of the first token of each token's document, non-decreasing; None means 0.
The log-sum-exp [B, N, S] is returned because backward, and context parallelism, need it.

Implementations: `reference` (plain PyTorch, any device, S x S scores), `sdpa` (PyTorch's flash
attention on CPU, one call a document), `nki` and `nki-sim` (ndtrain's kernels on the NeuronCore and
in its simulator), `nkilib` (AWS's kernels) and `nxd` (those of neuronx-distributed).
`attention_choice.py` decides once; nothing falls back at run time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ndtrain.ops import nki_attention, nkilib_attention, nxd_attention
from ndtrain.ops.cost import Cost, nbytes, register_cost
from ndtrain.ops.norm import wide

# ---- reference --------------------------------------------------------------------------------


def _scores(q_SBND: Tensor, k_SBKD: Tensor, starts_BS: Tensor | None, scale: float) -> Tensor:
    """Masked scores [B, N, S, S] in the wide dtype."""
    num_groups = q_SBND.shape[2] // k_SBKD.shape[2]
    k_SBND = k_SBKD.repeat_interleave(num_groups, dim=2)
    dtype = wide(q_SBND.dtype)
    scores = torch.einsum("ibnd,jbnd->bnij", q_SBND.to(dtype), k_SBND.to(dtype)) * scale
    index = torch.arange(q_SBND.shape[0], device=q_SBND.device)
    hidden = (index[None, None, :] > index[None, :, None]).expand(q_SBND.shape[1], -1, -1)
    if starts_BS is not None:
        hidden = hidden | (index[None, None, :] < starts_BS[:, :, None])
    return scores.masked_fill(hidden[:, None], float("-inf"))


def _reference_forward(
    q_SBND: Tensor, k_SBKD: Tensor, v_SBKD: Tensor, starts_BS: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    scores = _scores(q_SBND, k_SBKD, starts_BS, scale)
    lse_BNS = torch.logsumexp(scores, dim=-1)
    v_SBND = v_SBKD.repeat_interleave(q_SBND.shape[2] // v_SBKD.shape[2], dim=2)
    # softmax, not exp(scores - lse): the rounding of lse would double the error of the output.
    probabilities = scores.softmax(-1)
    out = torch.einsum("bnij,jbnd->ibnd", probabilities, v_SBND.to(probabilities.dtype))
    return out.to(q_SBND.dtype).contiguous(), lse_BNS


def _reference_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    num_kv_heads, num_groups = k.shape[2], q.shape[2] // k.shape[2]
    probabilities = (_scores(q, k, starts, scale) - lse[..., None]).exp()
    dtype = probabilities.dtype
    dout_wide, v_wide = dout.to(dtype), v.repeat_interleave(num_groups, dim=2).to(dtype)
    dv = torch.einsum("bnij,ibnd->jbnd", probabilities, dout_wide)
    dprobabilities = torch.einsum("ibnd,jbnd->bnij", dout_wide, v_wide)
    delta = (dout_wide * out.to(dtype)).sum(-1).permute(1, 2, 0)
    dscores = probabilities * (dprobabilities - delta[..., None]) * scale
    k_wide = k.repeat_interleave(num_groups, dim=2).to(dtype)
    dq = torch.einsum("bnij,jbnd->ibnd", dscores, k_wide)
    dk = torch.einsum("bnij,ibnd->jbnd", dscores, q.to(dtype))

    def grouped(gradient: Tensor) -> Tensor:
        return gradient.unflatten(2, (num_kv_heads, num_groups)).sum(3)

    return dq.to(q.dtype), grouped(dk).to(k.dtype), grouped(dv).to(v.dtype)


# ---- PyTorch's flash attention on CPU ------------------------------------------------------------

_Documents = list[tuple[slice, slice]]  # (rows of S, rows of B) that attend among themselves


def _documents(q_SBND: Tensor, starts_BS: Tensor | None) -> _Documents:
    """The rectangles of the batch that attend causally inside themselves and nowhere else."""
    sequence, batch = q_SBND.shape[:2]
    if starts_BS is None:
        return [(slice(0, sequence), slice(0, batch))]
    documents = []
    for row, starts in enumerate(starts_BS.tolist()):
        first = sorted(set(starts))
        for start, stop in zip(first, [*first[1:], sequence], strict=True):
            documents.append((slice(start, stop), slice(row, row + 1)))
    return documents


def _heads_first(x_SBND: Tensor) -> Tensor:
    return x_SBND.permute(1, 2, 0, 3)


def _dense_heads(x_SBND: Tensor) -> Tensor:
    # PyTorch's kernel takes the last stride to be 1 and reads the wrong numbers where it is not, as
    # in the gradient of a sum (stride 0).
    return x_SBND if x_SBND.stride(-1) == 1 else x_SBND.contiguous()


def _sdpa_forward(
    q_SBND: Tensor, k_SBKD: Tensor, v_SBKD: Tensor, starts_BS: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    sequence, batch, num_heads, _ = q_SBND.shape
    out_SBND = torch.empty_like(q_SBND, memory_format=torch.contiguous_format)
    lse_BNS = q_SBND.new_empty((batch, num_heads, sequence), dtype=wide(q_SBND.dtype))
    q_SBND, k_SBKD, v_SBKD = (_dense_heads(x) for x in (q_SBND, k_SBKD, v_SBKD))
    for tokens, rows in _documents(q_SBND, starts_BS):
        q, k, v = (_heads_first(x[tokens, rows]) for x in (q_SBND, k_SBKD, v_SBKD))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, True, scale=scale
        )
        _heads_first(out_SBND[tokens, rows]).copy_(out)
        lse_BNS[rows, :, tokens] = lse
    return out_SBND, lse_BNS


def _sdpa_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    dout, q, k, v, out = (_dense_heads(x) for x in (dout, q, k, v, out))
    for tokens, rows in _documents(q, starts):
        pieces = [_heads_first(x[tokens, rows]) for x in (dout, q, k, v, out)]
        results = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *pieces, lse[rows, :, tokens].contiguous(), 0.0, True, scale=scale
        )
        for gradient, result in zip((dq, dk, dv), results, strict=True):
            _heads_first(gradient[tokens, rows]).copy_(result)
    return dq, dk, dv


_FORWARD: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reference": _reference_forward,
    "sdpa": _sdpa_forward,
    "nki": nki_attention.ON_DEVICE.forward,
    "nki-sim": nki_attention.SIMULATED.forward,
    "nkilib": nkilib_attention.ON_DEVICE.forward,
    "nkilib-sim": nkilib_attention.SIMULATED.forward,
    "nxd": nxd_attention.forward,
}
_BACKWARD: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    "reference": _reference_backward,
    "sdpa": _sdpa_backward,
    "nki": nki_attention.ON_DEVICE.backward,
    "nki-sim": nki_attention.SIMULATED.backward,
    "nkilib": nkilib_attention.ON_DEVICE.backward,
    "nkilib-sim": nkilib_attention.SIMULATED.backward,
    "nxd": nxd_attention.backward,
}

# ---- the op ------------------------------------------------------------------------------------


@torch.library.custom_op("ndtrain::attention", mutates_args=())
def attention_forward(
    q_SBND: Tensor,
    k_SBKD: Tensor,
    v_SBKD: Tensor,
    starts_BS: Tensor | None,
    scale: float,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """Returns out [S, B, N, D] like q (contiguous) and lse [B, N, S] in fp32 (fp64 for fp64)."""
    return _FORWARD[implementation](q_SBND, k_SBKD, v_SBKD, starts_BS, scale)


@attention_forward.register_fake
def _(q_SBND, k_SBKD, v_SBKD, starts_BS, scale, implementation):  # type: ignore[no-untyped-def]
    sequence, batch, num_heads, _ = q_SBND.shape
    lse_BNS = q_SBND.new_empty((batch, num_heads, sequence), dtype=wide(q_SBND.dtype))
    return q_SBND.new_empty(q_SBND.shape), lse_BNS


@torch.library.custom_op("ndtrain::attention_backward", mutates_args=())
def attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor | None,
    scale: float,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns dq, dk, dv, contiguous, each like its tensor."""
    return _BACKWARD[implementation](dout, q, k, v, out, lse, starts, scale)


@attention_backward.register_fake
def _(dout, q, k, v, out, lse, starts, scale, implementation):  # type: ignore[no-untyped-def]
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, starts, ctx.scale, ctx.implementation = inputs
    ctx.save_for_backward(q, k, v, *output, starts)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, dout: Tensor, _: Tensor):  # type: ignore[no-untyped-def]
    q, k, v, out, lse, starts = ctx.saved_tensors
    gradients = attention_backward(dout, q, k, v, out, lse, starts, ctx.scale, ctx.implementation)
    return *gradients, None, None, None


attention_forward.register_autograd(_backward, setup_context=_setup)


class _CompiledReference(torch.autograd.Function):
    """`reference` as PyTorch's own operations; no S x S scores are kept for backward."""

    @staticmethod
    def forward(ctx, q, k, v, starts, scale):  # type: ignore[no-untyped-def]
        out, lse = _reference_forward(q, k, v, starts, scale)
        ctx.save_for_backward(q, k, v, out, lse, starts)
        ctx.scale = scale
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    def backward(ctx, dout: Tensor, _: Tensor):  # type: ignore[no-untyped-def]
        q, k, v, out, lse, starts = ctx.saved_tensors
        return *_reference_backward(dout, q, k, v, out, lse, starts, ctx.scale), None, None


def attention(
    q_SBND: Tensor,
    k_SBKD: Tensor,
    v_SBKD: Tensor,
    starts_BS: Tensor | None,
    scale: float,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """out [S, B, N, D] like q and lse [B, N, S] in fp32 (fp64 for fp64).

    Under torch.compile `reference` is its products, and `nki` an op that Neuron's compiler knows
    (`nki_op.py`). The others stay this op, which a backend can only call.
    """
    arguments = (q_SBND, k_SBKD, v_SBKD, starts_BS, scale)
    if torch.compiler.is_compiling():
        if implementation == "reference":
            return _CompiledReference.apply(*arguments)
        if implementation == "nki":
            return torch.ops.ndtrain.nki_attention(*arguments)
    return attention_forward(*arguments, implementation)


def _num_pairs(q_SBND: Tensor) -> int:
    """Pairs (query, key) of full causal rows: the mask is data, which a cost must not read."""
    sequence, batch, num_heads, _ = q_SBND.shape
    return batch * num_heads * sequence * (sequence + 1) // 2


@register_cost(attention_forward)
def _(q, k, v, starts, scale, implementation, *, result) -> Cost:  # type: ignore[no-untyped-def]
    return Cost(4 * _num_pairs(q) * q.shape[-1], nbytes(q, k, v, starts, result))


@register_cost(attention_backward)
def _(dout, q, k, v, out, lse, starts, scale, implementation, *, result) -> Cost:  # type: ignore[no-untyped-def]
    # Five products of flash attention's backward: scores again, dV, dP, dQ, dK.
    flops = 10 * _num_pairs(q) * q.shape[-1]
    return Cost(flops, nbytes(dout, q, k, v, out, lse, starts, result))

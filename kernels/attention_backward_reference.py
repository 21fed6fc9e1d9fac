"""attention_backward in NumPy: the chain rule on S x S matrices, computed in float64."""

import numpy as np

from .attention_forward_reference import masked_scores


def attention_backward(
    dout_SBND: np.ndarray,
    q_SBND: np.ndarray,
    k_SBKD: np.ndarray,
    v_SBKD: np.ndarray,
    out_SBND: np.ndarray,
    lse_BNS: np.ndarray,
    starts_BS: np.ndarray | None = None,
    scale: float = 1.0,
    offset: int = 0,
    window: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dq, dk, dv, each like its tensor; see attention_backward.py."""
    num_kv_heads = k_SBKD.shape[2]
    group = q_SBND.shape[2] // num_kv_heads
    dout = dout_SBND.astype(np.float64)
    k_SBND = np.repeat(k_SBKD.astype(np.float64), group, axis=2)
    v_SBND = np.repeat(v_SBKD.astype(np.float64), group, axis=2)
    scores = masked_scores(q_SBND, k_SBKD, starts_BS, scale, offset, window)
    probabilities = np.exp(scores - lse_BNS.astype(np.float64)[..., None])
    dprobabilities = np.einsum("ibnd,jbnd->bnij", dout, v_SBND)
    delta = np.einsum("ibnd,ibnd->bni", dout, out_SBND.astype(np.float64))
    dscores = scale * probabilities * (dprobabilities - delta[..., None])
    dq = np.einsum("bnij,jbnd->ibnd", dscores, k_SBND)
    dk = np.einsum("bnij,ibnd->jbnd", dscores, q_SBND.astype(np.float64))
    dv = np.einsum("bnij,ibnd->jbnd", probabilities, dout)

    def shared(gradient_SBND: np.ndarray) -> np.ndarray:
        num_keys, batch, _, dim = gradient_SBND.shape
        return gradient_SBND.reshape(num_keys, batch, num_kv_heads, group, dim).sum(axis=3)

    return (
        dq.astype(q_SBND.dtype),
        shared(dk).astype(k_SBKD.dtype),
        shared(dv).astype(v_SBKD.dtype),
    )

"""attention_forward in NumPy: the definition, S x S scores, computed in float64."""

import numpy as np

NO_KEY_LSE = -1e20


def visible_keys(
    num_queries: int, num_keys: int, starts_BS: np.ndarray | None, offset: int, window: int
) -> np.ndarray:
    """[B or 1, queries, keys] bool: starts <= key <= offset + query, and key in the window."""
    query = offset + np.arange(num_queries)[:, None]
    key = np.arange(num_keys)[None, :]
    visible = key <= query
    if window > 0:
        visible &= key > query - window
    if starts_BS is None:
        return visible[None]
    return visible[None] & (key[None] >= np.asarray(starts_BS)[:, :, None])


def masked_scores(
    q_SBND: np.ndarray,
    k_SBKD: np.ndarray,
    starts_BS: np.ndarray | None,
    scale: float,
    offset: int,
    window: int,
) -> np.ndarray:
    """[B, N, queries, keys] float64, -inf where hidden."""
    group = q_SBND.shape[2] // k_SBKD.shape[2]
    k_SBND = np.repeat(k_SBKD.astype(np.float64), group, axis=2)
    scores = scale * np.einsum("ibnd,jbnd->bnij", q_SBND.astype(np.float64), k_SBND)
    visible = visible_keys(q_SBND.shape[0], k_SBKD.shape[0], starts_BS, offset, window)
    return np.where(visible[:, None], scores, -np.inf)


def attention_forward(
    q_SBND: np.ndarray,
    k_SBKD: np.ndarray,
    v_SBKD: np.ndarray,
    starts_BS: np.ndarray | None = None,
    scale: float = 1.0,
    offset: int = 0,
    window: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns out like q and lse [B, N, S] in fp32 (fp64 for fp64); see attention_forward.py."""
    scores = masked_scores(q_SBND, k_SBKD, starts_BS, scale, offset, window)
    highest = np.maximum(scores.max(axis=-1, keepdims=True), NO_KEY_LSE)
    exponentials = np.exp(scores - highest)
    total = exponentials.sum(axis=-1, keepdims=True)
    group = q_SBND.shape[2] // k_SBKD.shape[2]
    v_SBND = np.repeat(v_SBKD.astype(np.float64), group, axis=2)
    probabilities = exponentials / np.maximum(total, 1e-18)
    out = np.einsum("bnij,jbnd->ibnd", probabilities, v_SBND)
    lse = np.where(total > 0, highest + np.log(np.maximum(total, 1e-18)), NO_KEY_LSE)
    lse_dtype = np.float64 if q_SBND.dtype == np.float64 else np.float32
    return out.astype(q_SBND.dtype), lse[..., 0].astype(lse_dtype)

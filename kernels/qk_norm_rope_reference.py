"""qk_norm_rope_forward and _backward in NumPy: the definition, computed in float64."""

import numpy as np


def _norm(
    x: np.ndarray, weight_D: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wide = x.astype(np.float64)
    r = 1.0 / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + eps)
    return wide * r, r, weight_D.astype(np.float64)


def _rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def qk_norm_rope_forward(
    q_SBND: np.ndarray,
    k_SBKD: np.ndarray,
    q_weight_D: np.ndarray,
    k_weight_D: np.ndarray,
    cos_SB1E: np.ndarray,
    sin_SB1E: np.ndarray,
    eps: float = 1e-6,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns q_out like q and k_out like k; see qk_norm_rope.py."""
    cos, sin = cos_SB1E.astype(np.float64), sin_SB1E.astype(np.float64)
    outputs = []
    for x, weight_D in ((q_SBND, q_weight_D), (k_SBKD, k_weight_D)):
        normed, _, weight = _norm(x, weight_D, eps)
        outputs.append(_rotate(normed * weight, cos, sin).astype(x.dtype))
    return outputs[0], outputs[1]


def qk_norm_rope_backward(
    dq_out_SBND: np.ndarray,
    dk_out_SBKD: np.ndarray,
    q_SBND: np.ndarray,
    k_SBKD: np.ndarray,
    q_weight_D: np.ndarray,
    k_weight_D: np.ndarray,
    cos_SB1E: np.ndarray,
    sin_SB1E: np.ndarray,
    eps: float = 1e-6,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns dq, dk like q, k and dq_weight, dk_weight [D] in fp32 (fp64 for fp64)."""
    cos, sin = cos_SB1E.astype(np.float64), sin_SB1E.astype(np.float64)
    gradients, weight_gradients = [], []
    for dy, x, weight_D in ((dq_out_SBND, q_SBND, q_weight_D), (dk_out_SBKD, k_SBKD, k_weight_D)):
        normed, r, weight = _norm(x, weight_D, eps)
        turned = _rotate(dy.astype(np.float64), cos, -sin)  # a rotation's transpose turns back
        g = turned * weight
        dx = r * (g - normed * np.mean(g * normed, axis=-1, keepdims=True))
        dtype = np.float64 if x.dtype == np.float64 else np.float32
        gradients.append(dx.astype(x.dtype))
        weight_gradients.append((turned * normed).sum(axis=(0, 1, 2)).astype(dtype))
    return (*gradients, *weight_gradients)

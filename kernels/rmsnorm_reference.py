"""rmsnorm_forward and rmsnorm_backward in NumPy: the definition, computed in float64."""

import numpy as np


def rmsnorm_forward(
    x: np.ndarray, weight_H: np.ndarray, eps: float = 1e-6
) -> tuple[np.ndarray, np.ndarray]:
    """Returns y like x and inverse_rms [..., 1] in fp32 (fp64 for fp64); see rmsnorm.py."""
    wide = x.astype(np.float64)
    inverse_rms = 1.0 / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + eps)
    y = weight_H.astype(np.float64) * wide * inverse_rms
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    return y.astype(x.dtype), inverse_rms.astype(dtype)


def rmsnorm_backward(
    dy: np.ndarray, x: np.ndarray, weight_H: np.ndarray, inverse_rms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns dx like x and dweight [H] in fp32 (fp64 for fp64)."""
    normed = x.astype(np.float64) * inverse_rms
    g = dy.astype(np.float64) * weight_H.astype(np.float64)
    dx = inverse_rms * (g - normed * np.mean(g * normed, axis=-1, keepdims=True))
    dweight = (dy.astype(np.float64) * normed).reshape(-1, x.shape[-1]).sum(axis=0)
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    return dx.astype(x.dtype), dweight.astype(dtype)

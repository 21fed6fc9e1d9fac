"""swiglu_forward and swiglu_backward in NumPy: the definition, computed in float64."""

import numpy as np


def _split(gate_up: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wide = gate_up.astype(np.float64)
    gate, up = np.split(wide, 2, axis=-1)
    return gate, up, 1.0 / (1.0 + np.exp(-gate))


def swiglu_forward(gate_up: np.ndarray) -> np.ndarray:
    """Returns silu(gate) * up like gate_up; see swiglu.py."""
    gate, up, sigmoid = _split(gate_up)
    return (gate * sigmoid * up).astype(gate_up.dtype)


def swiglu_backward(dy: np.ndarray, gate_up: np.ndarray) -> np.ndarray:
    """Returns dgate|dup like gate_up."""
    gate, up, sigmoid = _split(gate_up)
    wide_dy = dy.astype(np.float64)
    dgate = wide_dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    dup = wide_dy * gate * sigmoid
    return np.concatenate([dgate, dup], axis=-1).astype(gate_up.dtype)

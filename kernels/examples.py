"""Example calls of the kernels by named sizes, and the float64 results that they should give.

    calls = make_calls("attention_forward", {"queries": 300}, dtype=np.float32)
    wanted = wanted_results("attention_forward", calls)

A call is (positional arguments, keyword arguments) of one rank. `SIZES` names the sizes of each
kernel with their defaults; `OUTPUTS` names its results. NumPy only: a dtype for bf16, such as
ml_dtypes.bfloat16, comes from the caller.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from . import KERNELS

Call = tuple[tuple[Any, ...], dict[str, Any]]

_ATTENTION = {
    "queries": 256, "keys": 256, "heads": 2, "kv_heads": 1, "dim": 128, "batch": 1,
    "offset": 0, "window": 0, "documents": 0,
}  # fmt: skip
_NORM = {"rows": 256, "hidden": 1024}
_ROPE = {"tokens": 256, "batch": 1, "heads": 4, "kv_heads": 2, "dim": 128}
_SWIGLU = {"rows": 256, "features": 1536}
SIZES: dict[str, dict[str, int]] = {
    "attention_forward": _ATTENTION,
    "attention_backward": _ATTENTION,
    "rmsnorm_forward": _NORM,
    "rmsnorm_backward": _NORM,
    "qk_norm_rope_forward": _ROPE,
    "qk_norm_rope_backward": _ROPE,
    "swiglu_forward": _SWIGLU,
    "swiglu_backward": _SWIGLU,
    "allgather_matmul": {"ranks": 4, "rows": 128, "hidden": 256, "features": 640},
}
"""`documents` is the length of each document of a packed row; 0 means one document."""
OUTPUTS: dict[str, tuple[str, ...]] = {
    "attention_forward": ("out", "lse"),
    "attention_backward": ("dq", "dk", "dv"),
    "rmsnorm_forward": ("y", "inverse_rms"),
    "rmsnorm_backward": ("dx", "dweight"),
    "qk_norm_rope_forward": ("q_out", "k_out"),
    "qk_norm_rope_backward": ("dq", "dk", "dq_weight", "dk_weight"),
    "swiglu_forward": ("y",),
    "swiglu_backward": ("dgate_up",),
    "allgather_matmul": ("y",),
}


class _Arrays:
    """Standard normal arrays, or zeros where only shapes matter."""

    def __init__(self, dtype: Any, seed: int, values: bool) -> None:
        self.dtype = dtype
        self.values = values
        self.random = np.random.default_rng(seed)

    def __call__(self, *shape: int, dtype: Any = None) -> np.ndarray:
        chosen = dtype or self.dtype
        if not self.values:
            return np.zeros(shape, chosen)
        return self.random.standard_normal(shape).astype(chosen)


def reference(name: str) -> Callable[..., Any]:
    """The NumPy function of the same signature."""
    module = importlib.import_module(f".{KERNELS[name].reference}", __package__)
    return getattr(module, KERNELS[name].function)


def _attention(name: str, size: dict[str, int], arrays: _Arrays) -> list[Call]:
    tokens, keys, batch, dim = size["queries"], size["keys"], size["batch"], size["dim"]
    q = arrays(tokens, batch, size["heads"], dim)
    k, v = (arrays(keys, batch, size["kv_heads"], dim) for _ in range(2))
    options = {"scale": dim**-0.5, "offset": size["offset"], "window": size["window"]}
    if size["documents"]:
        starts = np.arange(tokens) // size["documents"] * size["documents"]
        options["starts_BS"] = np.broadcast_to(starts, (batch, tokens)).astype(np.int32)
    if name == "attention_forward":
        return [((q, k, v), options)]
    dout = arrays(*q.shape)
    out, lse = dout, arrays(batch, size["heads"], tokens, dtype=np.float32)
    if arrays.values:
        out, lse = reference("attention_forward")(*_wide((q, k, v)), **options)
        out, lse = out.astype(q.dtype), lse.astype(np.float32)
    return [((dout, q, k, v, out, lse), options)]


def _norm(name: str, size: dict[str, int], arrays: _Arrays) -> list[Call]:
    x, weight = arrays(size["rows"], size["hidden"]), arrays(size["hidden"])
    if name == "rmsnorm_forward":
        return [((x, weight), {})]
    inverse_rms = np.ones((size["rows"], 1), np.float32)
    if arrays.values:
        inverse_rms = reference("rmsnorm_forward")(*_wide((x, weight)))[1].astype(np.float32)
    return [((arrays(*x.shape), x, weight, inverse_rms), {})]


def _rope(name: str, size: dict[str, int], arrays: _Arrays) -> list[Call]:
    tokens, batch, dim = size["tokens"], size["batch"], size["dim"]
    heads = (size["heads"], size["kv_heads"])
    x = tuple(arrays(tokens, batch, number, dim) for number in heads)
    weights = (arrays(dim), arrays(dim))
    angles = arrays(tokens, batch, 1, dim // 2, dtype=np.float32)
    arguments = (*x, *weights, np.cos(angles), np.sin(angles))
    if name == "qk_norm_rope_forward":
        return [(arguments, {})]
    return [((arrays(*x[0].shape), arrays(*x[1].shape), *arguments), {})]


def _swiglu(name: str, size: dict[str, int], arrays: _Arrays) -> list[Call]:
    gate_up = arrays(size["rows"], 2 * size["features"])
    if name == "swiglu_forward":
        return [((gate_up,), {})]
    return [((arrays(size["rows"], size["features"]), gate_up), {})]


def _allgather(name: str, size: dict[str, int], arrays: _Arrays) -> list[Call]:
    rows, hidden, ranks = size["rows"], size["hidden"], size["ranks"]
    return [
        ((arrays(rows, hidden), arrays(hidden, size["features"]), ranks), {}) for _ in range(ranks)
    ]


_BUILDERS: dict[str, Callable[[str, dict[str, int], _Arrays], list[Call]]] = {
    "attention": _attention,
    "rmsnorm": _norm,
    "qk": _rope,
    "swiglu": _swiglu,
    "allgather": _allgather,
}


def make_calls(
    name: str, sizes: dict[str, int], dtype: Any = np.float32, seed: int = 0, values: bool = True
) -> list[Call]:
    """The call of each rank. values=False gives zeros, for runs that compute nothing."""
    complete = {**SIZES[name], **sizes}
    return _BUILDERS[name.split("_")[0]](name, complete, _Arrays(dtype, seed, values))


def _wide(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind not in "iu" else x
        for x in arguments
    )


def wanted_results(name: str, calls: list[Call]) -> list[tuple[np.ndarray, ...]]:
    """The results of each rank in float64."""
    function = reference(name)
    if name == "allgather_matmul":
        shards, weights = ([call[0][i] for call in calls] for i in range(2))
        y = function(*_wide((np.stack(shards), np.stack(weights))), len(calls))
        return [(part,) for part in y]
    results = []
    for arguments, options in calls:
        result = function(*_wide(arguments), **options)
        results.append(result if isinstance(result, tuple) else (result,))
    return results

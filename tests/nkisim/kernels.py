"""Small kernels that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from ndtrain import nkisim

with nkisim.as_nki():
    import nki
    import nki.isa as nisa
    import nki.language as nl

BF16 = ml_dtypes.bfloat16
DTYPES = {
    "float32": np.float32, "bfloat16": BF16, "float16": np.float16, "int32": np.int32,
    "uint32": np.uint32, "uint16": np.uint16, "uint8": np.uint8, "int8": np.int8,
}  # fmt: skip


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def sbuf(shape: tuple[int, ...], dtype: Any = "float32", **how: Any) -> Any:
    return nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf, **how)


def psum(shape: tuple[int, ...], dtype: Any = "float32", **how: Any) -> Any:
    return nl.ndarray(shape, dtype=dtype, buffer=nl.psum, **how)


def hbm(shape: tuple[int, ...], dtype: Any = "float32", **how: Any) -> Any:
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm, **how)


def load(source: Any) -> Any:
    """A fresh SBUF tile with the values of an HBM tensor."""
    tile = sbuf(source.shape, source.dtype)
    nisa.dma_copy(dst=tile, src=source)
    return tile


def store(tile: Any) -> Any:
    """A fresh output with the values of a tile, by way of SBUF when it is in PSUM."""
    if tile.buffer == nl.psum:
        copy = sbuf(tile.shape, tile.dtype)
        nisa.tensor_copy(dst=copy, src=tile)
        tile = copy
    out = hbm(tile.shape, tile.dtype)
    nisa.dma_copy(dst=out, src=tile)
    return out


def apply(
    body: Callable[..., Any], *arrays: np.ndarray, dtype: Any = "float32",
    shape: tuple[int, ...] | None = None, **how: Any,
) -> np.ndarray:  # fmt: skip
    """Load `arrays`, let `body(dst, *tiles)` fill dst, return its values.

    dst has `shape`, that of the first array when it is not given.
    """

    def kernel(*sources: Any) -> Any:
        tiles = [load(s) for s in sources]
        dst = sbuf(shape or arrays[0].shape, dtype)
        body(dst, *tiles)
        return store(dst)

    return run(kernel, *arrays, **how).outputs


def run(kernel: Callable[..., Any], *arrays: Any, target: str = "trn2", **how: Any) -> nkisim.Run:
    """Run a kernel written for a test, which may use any Python."""
    options = how.pop("options", nkisim.Options(check_python=False))
    return nkisim.run(kernel, *arrays, target=target, options=options, **how)


__all__ = ["BF16", "DTYPES", "apply", "hbm", "load", "nisa", "nki", "nl", "normal", "psum", "run",
           "sbuf", "store"]  # fmt: skip

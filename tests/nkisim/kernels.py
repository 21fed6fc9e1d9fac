"""Small kernels that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ndtrain import nkisim
from ndtrain.nkisim.errors import ApiError, CapacityError, HardwareLimit

with nkisim.as_nki():
    import nki
    import nki.isa as nisa
    import nki.language as nl

BF16 = ml_dtypes.bfloat16


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


def t(*shape: int, dtype: Any = "float32", value: float = 0, **how: Any) -> Any:
    """A defined SBUF tile, `value` everywhere."""
    tile = sbuf(shape, dtype, **how)
    nisa.memset(tile, value)
    return tile


def p(*shape: int, dtype: Any = "float32", **how: Any) -> Any:
    """A defined PSUM tile."""
    tile = psum(shape, dtype, **how)
    nisa.memset(tile, 0)
    return tile


def mm(dst: Any, a: Any, b: Any, **how: Any) -> None:
    nisa.nc_matmul(dst, a, b, **how)


def refuses(body: Callable[[], Any], target: str, words: str) -> None:
    """The kernel `body` is refused on `target` with these words, and the line is named."""
    with pytest.raises((HardwareLimit, CapacityError, ApiError), match=words) as caught:
        run(body, target=target)
    assert "/tests/nkisim/" in caught.value.where


__all__ = [
    "BF16", "apply", "hbm", "load", "mm", "nisa", "nki", "nl", "normal", "p", "psum",
    "refuses", "run", "sbuf", "store", "t",
]  # fmt: skip

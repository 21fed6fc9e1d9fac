"""Inputs, comparisons and mutants for the tests of this folder."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import ndtrain.kernels
import numpy as np
from ndtrain.kernels import KERNELS, NKI_VERSIONS

from ndtrain import nkisim

BF16 = ml_dtypes.bfloat16
FOLDER = Path(ndtrain.kernels.__file__).parent
SHARED = (
    "row_tiles", "attention_masks", "online_softmax", "attention_gradients", "attention_store",
    "rmsnorm", "rope_tiles",
)  # fmt: skip


def normal(seed: int, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Standard normal numbers, rounded to dtype."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def wide(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arrays in float64."""
    return tuple(np.asarray(array).astype(np.float64) for array in arrays)


@functools.cache
def kernel(name: str, target: str = "trn2") -> Any:
    """The kernel of that name under the NKI version of the target, for nkisim.run."""
    with nkisim.as_nki(NKI_VERSIONS[target], fresh="ndtrain.kernels"):
        module = importlib.import_module(f"ndtrain.kernels.{KERNELS[name].module}")
    return getattr(module, KERNELS[name].function)


def run(name: str, *arguments: Any, target: str = "trn2", **how: Any) -> nkisim.Run:
    """nkisim.run of the kernel of that name."""
    return nkisim.run(kernel(name, target), *arguments, target=target, **how)


def reference(name: str) -> Callable:
    module = importlib.import_module(f"ndtrain.kernels.{KERNELS[name].reference}")
    return getattr(module, KERNELS[name].function)


def relative_errors(ours: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> list[float]:
    """Largest error of each array, relative to the largest element of what is wanted (or 1)."""
    errors = []
    for array, want in zip(ours, wanted, strict=True):
        (got,) = wide(array)
        assert got.shape == want.shape
        errors.append(float(np.max(np.abs(got - want)) / max(np.max(np.abs(want)), 1.0)))
    return errors


class Attention:
    """One attention problem: bf16 or fp32 inputs, its kernels and its float64 results."""

    def __init__(
        self, queries: int, keys: int, heads: int = 1, kv_heads: int = 1, dim: int = 64,
        batch: int = 1, dtype: Any = np.float32, **options: Any,
    ) -> None:  # fmt: skip
        self.q = normal(0, (queries, batch, heads, dim), dtype)
        self.k = normal(1, (keys, batch, kv_heads, dim), dtype)
        self.v = normal(2, (keys, batch, kv_heads, dim), dtype)
        self.dout = normal(3, (queries, batch, heads, dim), dtype)
        self.options = {"scale": dim**-0.5, **options}
        self.out, self.lse = reference("attention_forward")(
            *wide(self.q, self.k, self.v), **self.options
        )

    def forward(
        self, chosen: Callable | None = None, target: str = "trn2", **how: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of `chosen`, or of attention_forward itself."""
        chosen = chosen or kernel("attention_forward", target)
        arguments = (self.q, self.k, self.v)
        return nkisim.run(chosen, *arguments, target=target, **self.options, **how).outputs

    def backward(
        self, chosen: Callable | None = None, target: str = "trn2", **how: Any
    ) -> tuple[np.ndarray, ...]:
        chosen = chosen or kernel("attention_backward", target)
        out, lse = self.out.astype(self.q.dtype), self.lse.astype(np.float32)
        arguments = (self.dout, self.q, self.k, self.v, out, lse)
        return nkisim.run(chosen, *arguments, target=target, **self.options, **how).outputs

    def forward_errors(self, chosen: Callable | None = None, **how: Any) -> list[float]:
        return relative_errors(self.forward(chosen, **how), (self.out, self.lse))

    def gradients(self) -> tuple[np.ndarray, ...]:
        """dq, dk, dv in float64."""
        arguments = wide(self.dout, self.q, self.k, self.v)
        out = self.out.astype(self.q.dtype).astype(np.float64)
        return reference("attention_backward")(*arguments, out, self.lse, **self.options)

    def backward_errors(self, chosen: Callable | None = None, **how: Any) -> list[float]:
        return relative_errors(self.backward(chosen, **how), self.gradients())


def documents(queries: int, batch: int, seed: int = 5) -> np.ndarray:
    """starts [B, S] int32 of packed documents of 1 to 100 tokens."""
    random = np.random.default_rng(seed)
    starts = np.zeros((batch, queries), np.int32)
    for row in range(batch):
        token = 0
        while token < queries:
            length = int(random.integers(1, 100))
            starts[row, token : token + length] = token
            token += length
    return starts


def mutant(name: str, file: str, old: str, new: str) -> Callable:
    """The kernel `name` with `old` replaced by `new` in `file` (kernels/FILE.py)."""
    source = (FOLDER / f"{file}.py").read_text()
    assert source.count(old) == 1, f"{file}.py contains {source.count(old)} times: {old}"
    changed = {file: source.replace(old, new)}
    main = KERNELS[name].module
    with nkisim.as_nki(fresh="ndtrain.kernels"):
        # In order of imports, so that siblings see the changed file.
        for module in dict.fromkeys((*SHARED, main)):
            _execute(module, changed.get(module) or (FOLDER / f"{module}.py").read_text())
        return getattr(sys.modules[f"ndtrain.kernels.{main}"], name)


def _execute(module: str, source: str) -> None:
    made = types.ModuleType(f"ndtrain.kernels.{module}")
    made.__package__ = "ndtrain.kernels"
    made.__file__ = str(FOLDER / f"{module}.py")
    sys.modules[made.__name__] = made
    exec(compile(source, made.__file__, "exec"), made.__dict__)

"""Arrays at the border of a kernel: NumPy or torch in, the same kind out.

torch is never imported here: a torch tensor brings its own module along.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from ndtrain.nkisim.dtypes import host_dtype
from ndtrain.nkisim.errors import LanguageError
from ndtrain.nkisim.machine import Options
from ndtrain.nkisim.program import Program
from ndtrain.nkisim.tensor import NkiTensor

_TORCH_LOW = {
    "torch.bfloat16": ml_dtypes.bfloat16,
    "torch.float8_e5m2": ml_dtypes.float8_e5m2,
    "torch.float8_e4m3fn": ml_dtypes.float8_e4m3fn,
}


def is_torch(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach")


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or is_torch(value)


def to_numpy(value: Any) -> np.ndarray:
    """A NumPy array over the same values; low-precision torch types keep their bits."""
    if isinstance(value, np.ndarray):
        return value
    if is_torch(value):
        host = value.detach().cpu()
        low = _TORCH_LOW.get(str(value.dtype))
        if low is None:
            return host.numpy()
        torch = sys.modules["torch"]
        width = torch.uint8 if np.dtype(low).itemsize == 1 else torch.int16
        return host.contiguous().view(width).numpy().view(low)
    return np.asarray(value)


def _from_numpy(array: np.ndarray) -> Any:
    torch = sys.modules["torch"]
    for name, low in _TORCH_LOW.items():
        if array.dtype == low:
            width = np.uint8 if array.dtype.itemsize == 1 else np.int16
            kind = getattr(torch, name.removeprefix("torch."))
            return torch.from_numpy(np.ascontiguousarray(array).view(width)).view(kind)
    return torch.from_numpy(np.ascontiguousarray(array))


class Bound:
    """The arguments of one rank as tensors, and the way back."""

    def __init__(self, program: Program, args: tuple, kwargs: dict[str, Any]) -> None:
        self._program = program
        self._pairs: list[tuple[Any, NkiTensor]] = []
        self.wants_torch = False
        self.arguments = (
            tuple(self._convert(a, f"arg{i}") for i, a in enumerate(args)),
            {k: self._convert(v, k) for k, v in kwargs.items()},
        )

    def _convert(self, value: Any, name: str) -> Any:
        if is_array(value):
            self.wants_torch |= is_torch(value)
            tensor = self._program.wrap(to_numpy(value), name)
            self._pairs.append((value, tensor))
            return tensor
        if isinstance(value, list) and self._program.api != "0.2":
            raise LanguageError(
                f"argument {name} of the kernel is a list",
                help="pass a tuple; the compiler takes no lists as kernel arguments",
            )
        if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
            return type(value)(self._convert(v, f"{name}_{i}") for i, v in enumerate(value))
        return value

    def write_back(self) -> None:
        """Update in place the arrays that the kernel wrote."""
        for original, tensor in self._pairs:
            assert tensor.storage is not None
            if not tensor.storage.written:
                continue
            target = to_numpy(original)
            target[...] = _values(tensor, self._program.options).reshape(target.shape)
            if is_torch(original):
                original.copy_(_from_numpy(target).reshape(original.shape))


def bind(program: Program, args: tuple, kwargs: dict[str, Any]) -> Bound:
    return Bound(program, args, kwargs)


def visit(result: Any, action: Callable[[NkiTensor], None]) -> None:
    """`action` on every tensor of a kernel's result."""
    if isinstance(result, NkiTensor):
        action(result)
    elif isinstance(result, (tuple, list)):
        for item in result:
            visit(item, action)


def _values(tensor: NkiTensor, options: Options) -> np.ndarray:
    assert tensor.storage is not None
    held = tensor.storage.view(tensor.window, tensor.dtype)
    if options.precise:
        return held.copy()
    return held.astype(host_dtype(tensor.dtype, precise=True))


def to_host(result: Any, options: Options, wants_torch: bool) -> Any:
    """The kernel's result with tensors replaced by arrays."""
    if isinstance(result, NkiTensor):
        values = _values(result, options)
        return _from_numpy(values) if wants_torch else values
    if isinstance(result, (tuple, list)):
        return type(result)(to_host(item, options, wants_torch) for item in result)
    return result

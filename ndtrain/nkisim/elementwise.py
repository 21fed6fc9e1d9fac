"""The convenience functions of `nki.language`: each issues instructions and returns a new tile."""

from __future__ import annotations

import math
from typing import Any

from ndtrain.nkisim import isa_activation, isa_elementwise, isa_reduce, ops
from ndtrain.nkisim.dtypes import DType, as_dtype, float32, int32, uint32
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.machine import current
from ndtrain.nkisim.ops import Op
from ndtrain.nkisim.tensor import NkiTensor

_SWAPPED = {
    "less": ops.greater, "less_equal": ops.greater_equal,
    "greater": ops.less, "greater_equal": ops.less_equal,
}  # fmt: skip


def tile(shape: tuple[int, ...], dtype: DType, space: str = "sbuf", name: str = "") -> NkiTensor:
    """A fresh tile for a result."""
    return current().allocate(tuple(shape), dtype, space, name, None)


def apply(op: Op, x: Any, y: Any = None, dtype: Any = None, **extra: Any) -> NkiTensor:
    """`nl.op(x[, y])`: element-wise on tiles and scalars."""
    if extra:
        raise _refusal(op, f"no argument {', '.join(extra)}")
    if y is None or op.kind in ("unary", "activation", "composite") or op is ops.invert:
        return _unary(op, x, dtype if dtype is not None else y)
    return _binary(op, x, y, dtype)


def _refusal(op: Op, what: str) -> HardwareLimit:
    """No instruction is there yet to name: the function of the language is."""
    file, line = current().line()
    return HardwareLimit(f"nl.{op.name}: {what}", f"{file}:{line}")


def _result(x: NkiTensor, dtype: Any) -> NkiTensor:
    return tile(x.shape, x.dtype if dtype is None else as_dtype(dtype))


def _unary(op: Op, x: NkiTensor, dtype: Any) -> NkiTensor:
    if not isinstance(x, NkiTensor):
        raise _refusal(op, f"`x` is {type(x).__name__} and must be a tile")
    out = _result(x, dtype)
    if op is ops.copy:
        isa_elementwise.tensor_copy(out, x)
    elif op is ops.reciprocal:
        isa_elementwise.reciprocal(out, x)
    elif op is ops.sin or op is ops.cos:
        return _trigonometric(op, x, out)
    elif op is ops.tan:
        isa_elementwise.tensor_tensor(out, ops.sin(x, float32), ops.cos(x, float32), ops.divide)
    elif op is ops.negative:
        isa_elementwise.tensor_scalar(out, x, ops.multiply, -1.0)
    elif op in (ops.floor, ops.ceil, ops.trunc):
        return _rounded(op, x, out)
    elif op is ops.invert or op is ops.logical_not:
        mask = ops.bitwise_xor if op is ops.invert else ops.logical_xor
        isa_elementwise.tensor_scalar(out, x, mask, -1 if op is ops.invert else 1.0)
    else:
        isa_activation.activation(out, op, x)
    return out


def _trigonometric(op: Op, x: NkiTensor, out: NkiTensor) -> NkiTensor:
    """Range reduction to [-pi, pi], then the Scalar Engine's sine."""
    turn, shift = 2 * math.pi, math.pi / 2 if op is ops.cos else 0.0
    moved = tile(x.shape, float32)
    isa_elementwise.tensor_scalar(moved, x, ops.add, shift + math.pi, op1=ops.mod, operand1=turn)
    isa_elementwise.tensor_scalar(moved, moved, ops.subtract, math.pi)
    isa_activation.activation(out, ops.sin, moved)
    return out


def _rounded(op: Op, x: NkiTensor, out: NkiTensor) -> NkiTensor:
    """x - x mod 1 rounds down; the other two follow from it."""
    rest = tile(x.shape, float32)
    if op is ops.floor:
        isa_elementwise.tensor_scalar(rest, x, ops.mod, 1.0)
        isa_elementwise.tensor_tensor(out, x, rest, ops.subtract)
    elif op is ops.trunc:
        isa_elementwise.tensor_scalar(rest, x, ops.fmod, 1.0)
        isa_elementwise.tensor_tensor(out, x, rest, ops.subtract)
    else:
        isa_elementwise.tensor_scalar(rest, x, ops.multiply, -1.0, op1=ops.mod, operand1=1.0)
        isa_elementwise.tensor_tensor(out, x, rest, ops.add)
    return out


def _binary(op: Op, x: Any, y: Any, dtype: Any) -> NkiTensor:
    if isinstance(x, NkiTensor) and isinstance(y, NkiTensor):
        return _tiles(op, x, y, dtype)
    if isinstance(x, NkiTensor):
        out = _result(x, dtype)
        isa_elementwise.tensor_scalar(out, x, op, y)
    elif isinstance(y, NkiTensor):
        out = _result(y, dtype)
        swapped = _SWAPPED.get(op.name)
        if swapped is not None:
            isa_elementwise.tensor_scalar(out, y, swapped, x)
        else:
            isa_elementwise.tensor_scalar(out, y, op, x, reverse0=True)
    else:
        raise _refusal(
            op, f"`x` is {type(x).__name__}, `y` is {type(y).__name__}; one must be a tile"
        )
    return out


def _tiles(op: Op, x: NkiTensor, y: NkiTensor, dtype: Any) -> NkiTensor:
    """Two tiles of equal shape, or one of them a (partitions, 1) column."""
    if x.shape == y.shape:
        out = _result(x, dtype or promote(x.dtype, y.dtype))
        isa_elementwise.tensor_tensor(out, x, y, op)
        return out
    if y.shape[0] == x.shape[0] and y.free_size == 1:
        out = _result(x, dtype or promote(x.dtype, y.dtype))
        isa_elementwise.tensor_scalar(out, x, op, _column(y, op))
        return out
    if y.shape[0] == x.shape[0] and x.free_size == 1:
        out = _result(y, dtype or promote(x.dtype, y.dtype))
        isa_elementwise.tensor_scalar(out, y, op, _column(x, op), reverse0=True)
        return out
    if x.ndim != y.ndim:
        raise _refusal(op, f"shapes {x.shape} and {y.shape} do not broadcast")
    x, y = _broadcast_free(x, y), _broadcast_free(y, x)
    out = _result(x, dtype or promote(x.dtype, y.dtype))
    isa_elementwise.tensor_tensor(out, x, y, op)
    return out


def _broadcast_free(x: NkiTensor, like: NkiTensor) -> NkiTensor:
    for dim in range(1, x.ndim):
        if x.shape[dim] == 1 and like.shape[dim] != 1:
            x = x.broadcast(dim, like.shape[dim])
    return x


def _column(y: NkiTensor, op: Op) -> NkiTensor:
    if op.kind != "arith" or y.dtype == float32:
        return y
    wide = tile(y.shape, float32)
    isa_elementwise.tensor_copy(wide, y)
    return wide


def promote(a: DType, b: DType) -> DType:
    """The wider float, a float over an integer, the wider integer."""
    if a == b:
        return a
    if a.is_float != b.is_float:
        return a if a.is_float else b
    if a.itemsize != b.itemsize:
        return a if a.itemsize > b.itemsize else b
    return float32 if a.is_float else (int32 if int32 in (a, b) else uint32)


def reduce(op: Op, x: NkiTensor, axis: Any, dtype: Any, keepdims: bool) -> NkiTensor:
    """`nl.sum`, `nl.max`, ... over trailing free axes."""
    axes = sorted(a % x.ndim for a in ((axis,) if isinstance(axis, int) else axis))
    kept = tuple(1 if d in axes else s for d, s in enumerate(x.shape))
    out = tile(kept, x.dtype if dtype is None else as_dtype(dtype))
    isa_reduce.tensor_reduce(out, op, x, tuple(axes), keepdims=True)
    if keepdims:
        return out
    shape = tuple(s for d, s in enumerate(x.shape) if d not in axes)
    return out.reshape(shape if len(shape) > 1 else (*shape, 1))

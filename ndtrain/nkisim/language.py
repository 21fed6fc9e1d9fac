"""`nki.language`: allocation, loops, program identity, and functions made of instructions.

Operator tokens come from `ops`, dtypes from `dtypes`; `modules` puts the public module together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ndtrain.nkisim import (
    elementwise,
    isa_activation,
    isa_dma,
    isa_elementwise,
    isa_matmul,
    isa_reduce,
    isa_select,
    ops,
    spaces,
)
from ndtrain.nkisim.dtypes import DType, as_dtype, float32, uint8
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.indexing import DynamicSlice
from ndtrain.nkisim.machine import current
from ndtrain.nkisim.registers import VirtualRegister, value_of
from ndtrain.nkisim.spaces import MemoryRegion
from ndtrain.nkisim.tensor import NkiTensor

_MAX_ITERATIONS = 1 << 20


def ndarray(
    shape: Any, dtype: Any, buffer: MemoryRegion = spaces.sbuf, name: str = "",
    address: tuple[int, int] | None = None,
) -> NkiTensor:  # fmt: skip
    if not isinstance(buffer, MemoryRegion):
        raise HardwareLimit(f"`buffer` is {buffer!r}", help="use nl.sbuf, nl.psum or nl.shared_hbm")
    sizes = tuple(int(s) for s in ((shape,) if isinstance(shape, int) else shape))
    return current().allocate(sizes, as_dtype(dtype), buffer.value, name, address)


def full(
    shape: Any, fill_value: Any, dtype: Any, buffer: MemoryRegion = spaces.sbuf, name: str = ""
) -> NkiTensor:
    out = ndarray(shape, dtype, buffer, name)
    if out.on_chip:
        isa_elementwise.memset(out, fill_value)
        return out
    current().store(out, np.full(out.shape, fill_value, np.float32))
    return out


def zeros(shape: Any, dtype: Any, buffer: MemoryRegion = spaces.sbuf, name: str = "") -> NkiTensor:
    return full(shape, 0, dtype, buffer, name)


def ones(shape: Any, dtype: Any, buffer: MemoryRegion = spaces.sbuf, name: str = "") -> NkiTensor:
    return full(shape, 1, dtype, buffer, name)


def zeros_like(x: NkiTensor, dtype: Any = None, buffer: Any = None, name: str = "") -> NkiTensor:
    return zeros(x.shape, dtype or x.dtype, buffer or x.buffer, name)


def empty_like(x: NkiTensor, dtype: Any = None, buffer: Any = None, name: str = "") -> NkiTensor:
    return ndarray(x.shape, dtype or x.dtype, buffer or x.buffer, name)


def load(src: NkiTensor, dtype: Any = None) -> NkiTensor:
    out = elementwise.tile(_at_least_2d(src.shape), src.dtype if dtype is None else as_dtype(dtype))
    isa_dma.dma_copy(out, src)
    return out


def _at_least_2d(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) > 1 else (1, *shape)


def store(dst: NkiTensor, value: NkiTensor) -> None:
    isa_dma.dma_copy(dst, value)


def load_transpose2d(src: NkiTensor, dtype: Any = None) -> NkiTensor:
    out = elementwise.tile(tuple(reversed(src.shape)), as_dtype(dtype or src.dtype))
    isa_dma.dma_transpose(out, src)
    return out


def ds(start: Any, size: int) -> DynamicSlice:
    return DynamicSlice(start, size)


def affine_range(start: Any, stop: Any = None, step: int = 1) -> range:
    first, last = (0, start) if stop is None else (start, stop)
    if any(isinstance(v, VirtualRegister) for v in (first, last, step)):
        raise HardwareLimit("a register bounds this loop", help="use nl.fori_loop")
    return range(first, last, step)


sequential_range = affine_range
static_range = affine_range


def dynamic_range(start: Any, stop: Any = None, step: int = 1) -> Iterator[VirtualRegister]:
    first, last = (0, start) if stop is None else (start, stop)
    if not isinstance(step, int) or step < 1:
        raise HardwareLimit(f"`step` {step!r} of a dynamic loop is a positive compile-time integer")
    with _dynamic_loop():
        for i in range(value_of(first), value_of(last), step):
            yield VirtualRegister(i, frozen=True)


@contextmanager
def _dynamic_loop() -> Iterator[None]:
    core = current()
    if core.no_reorder:
        raise HardwareLimit("a dynamic loop cannot stand inside nl.no_reorder")
    core.num_loops += 1
    core.loops.append(core.num_loops)
    try:
        yield
    finally:
        core.loops.pop()


def fori_loop(
    lower: Any, upper: Any, body_fun: Callable[[VirtualRegister], Any], step: int = 1
) -> None:
    for i in dynamic_range(lower, upper, step):
        if body_fun(i) is not None:
            raise HardwareLimit("the body of nl.fori_loop returns nothing")


def while_loop(init: Any, body_fun: Callable[[Any], Any]) -> None:
    """Run `body_fun(register)` while the register it returns is nonzero, starting with `init`."""
    register = init if isinstance(init, VirtualRegister) else VirtualRegister(value_of(init))
    with _dynamic_loop():
        for _ in range(_MAX_ITERATIONS):
            if not register.value:
                return
            # The body gets a copy: the next condition is what it returns, not what it wrote.
            register = body_fun(VirtualRegister(register.value))
            if not isinstance(register, VirtualRegister):
                raise HardwareLimit("the body of nl.while_loop returns the next condition register")
    raise HardwareLimit(f"nl.while_loop did not end within {_MAX_ITERATIONS} iterations")


@contextmanager
def no_reorder() -> Iterator[None]:
    """Instructions inside run in program order."""
    core = current()
    if not core.no_reorder:
        core.ordered_from = len(core.stream)
    core.no_reorder += 1
    try:
        yield
    finally:
        core.no_reorder -= 1


def program_id(axis: int = 0) -> int:
    _check_axis(axis)
    return current().index


def num_programs(axes: Any = 0) -> int:
    return current().program.num_cores


def program_ndim() -> int:
    return current().program.grid_ndim


def _check_axis(axis: int) -> None:
    if axis != 0:
        raise HardwareLimit(f"axis {axis}: the launch grid has one axis, the LNC cores")


def shared_constant(constant: Any) -> NkiTensor:
    array = np.load(constant) if isinstance(constant, str) else np.asarray(constant)
    return current().program.constant(array)


def shared_identity_matrix(n: int, dtype: Any = uint8, dst: NkiTensor | None = None) -> NkiTensor:
    out = elementwise.tile((n, n), as_dtype(dtype)) if dst is None else dst
    source = shared_constant(np.eye(n, dtype=np.float32))
    isa_dma.dma_copy(out, source)
    return out


def device_print(print_prefix: str, tensor: NkiTensor) -> None:
    if current().arithmetic:
        print(f"{print_prefix} {tensor!r}\n{tensor.numpy()}")  # what it is for


def expand_dims(x: NkiTensor, axis: int) -> NkiTensor:
    return x.expand_dim(axis % (x.ndim + 1))


def broadcast_to(x: NkiTensor, shape: Any, dtype: Any = None) -> NkiTensor:
    wanted = tuple(shape)
    kind = as_dtype(dtype or x.dtype)
    if x.shape == wanted:
        return x if kind == x.dtype else ops.copy(x, kind)
    if len(wanted) != x.ndim or any(a not in (1, b) for a, b in zip(x.shape, wanted, strict=True)):
        raise HardwareLimit(f"a tile of shape {x.shape} does not broadcast to {wanted}")
    if x.shape[0] != wanted[0]:
        x = _over_partitions(x, wanted[0])
    for dim, size in enumerate(wanted):
        if x.shape[dim] != size:
            x = x.broadcast(dim, size)
    out = elementwise.tile(wanted, kind)
    isa_elementwise.tensor_copy(out, x)
    return out


def _over_partitions(x: NkiTensor, count: int) -> NkiTensor:
    """The one partition of `x` copied to `count`; engines cannot, so a DMA does it."""
    source = x if x.space == "sbuf" else ops.copy(x)
    strides = (0, *source.strides[1:])
    row = NkiTensor(
        (count, *source.shape[1:]), source.dtype, source.storage, strides=strides,
        offset=source.offset,
    )  # fmt: skip
    out = elementwise.tile(row.shape, source.dtype)
    isa_dma.dma_copy(out, row)
    return out


def transpose(x: NkiTensor, dtype: Any = None) -> NkiTensor:
    """A 2-D transpose on the Tensor Engine; the result is in PSUM."""
    out = elementwise.tile((x.free_size, x.shape[0]), x.dtype, "psum")
    isa_matmul.nc_transpose(out, x)
    return out if dtype is None else ops.copy(out, dtype)


def matmul(x: NkiTensor, y: NkiTensor, transpose_x: bool = False) -> NkiTensor:
    """x @ y in PSUM, float32; x is transposed first unless `transpose_x` says it is."""
    left = x if transpose_x else ops.copy(transpose(x))
    out = elementwise.tile((left.free_size, y.free_size), float32, "psum")
    isa_matmul.nc_matmul(out, left, y)
    return out


def _reduction(op: ops.Op) -> Callable[..., NkiTensor]:
    def reduction(x: NkiTensor, axis: Any, dtype: Any = None, keepdims: bool = False) -> NkiTensor:
        return elementwise.reduce(op, x, axis, dtype, keepdims)

    reduction.operator = op  # type: ignore[attr-defined]
    return reduction


sum = _reduction(ops.add)
max = _reduction(ops.maximum)
min = _reduction(ops.minimum)
prod = _reduction(ops.multiply)
all = _reduction(ops.logical_and)


def mean(x: NkiTensor, axis: Any, dtype: Any = None, keepdims: bool = False) -> NkiTensor:
    total = elementwise.reduce(ops.add, x, axis, float32, keepdims)
    out = elementwise.tile(total.shape, x.dtype if dtype is None else as_dtype(dtype))
    isa_elementwise.tensor_scalar(out, total, ops.multiply, total.size / x.size)
    return out


def var(x: NkiTensor, axis: Any, dtype: Any = None, keepdims: bool = False) -> NkiTensor:
    center = mean(x, axis, float32, keepdims=True)
    spread = ops.square(ops.subtract(x, center, float32), float32)
    return mean(spread, axis, dtype or x.dtype, keepdims)


def softmax(x: NkiTensor, axis: Any = -1, dtype: Any = None) -> NkiTensor:
    if axis not in (-1, x.ndim - 1) or x.ndim != 2:
        raise HardwareLimit("nl.softmax works on the free axis of a 2-D tile")
    top = elementwise.tile((x.shape[0], 1), float32)
    isa_reduce.tensor_reduce(top, ops.maximum, x, 1, negate=True)
    total, out = elementwise.tile(top.shape, float32), elementwise.tile(x.shape, float32)
    isa_activation.activation_reduce(out, ops.exp, x, ops.add, total, bias=top)
    isa_elementwise.reciprocal(total, total)
    result = elementwise.tile(x.shape, x.dtype if dtype is None else as_dtype(dtype))
    isa_elementwise.tensor_scalar(result, out, ops.multiply, total)
    return result


def where(condition: NkiTensor, x: Any, y: Any, dtype: Any = None) -> NkiTensor:
    like = next(t for t in (x, y, condition) if isinstance(t, NkiTensor))
    out = elementwise.tile(like.shape, as_dtype(dtype or like.dtype))
    keep = ops.not_equal(condition, 0.0, dtype=uint8)
    _fill(out, y)
    isa_select.tensor_copy_predicated(out, _as(x, out.dtype), keep)
    return out


def _fill(out: NkiTensor, value: Any) -> None:
    if isinstance(value, NkiTensor):
        isa_elementwise.tensor_copy(out, value)
    else:
        isa_elementwise.memset(out, value)


def _as(value: Any, dtype: DType) -> Any:
    if not isinstance(value, NkiTensor) or value.dtype == dtype:
        return value
    return ops.copy(value, dtype)


__all__ = [n for n in dir(sys.modules[__name__]) if not n.startswith("_")]

"""Windows, (shape, strides, offset) in elements, their parts, and what they may reach.

Nothing here touches memory; `reshaping.py` has the views of all elements.

The rules for dim 0 of on-chip tensors follow nki/get-started/nki-language-guide.rst of the Neuron
SDK: the partition dimension stays first and is never dropped, and a view keeps two dimensions.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.registers import VirtualRegister, value_of
from ndtrain.nkisim.target import MAX_VIEW_DIMS
from ndtrain.nkisim.trace import reach

Window = tuple[tuple[int, ...], tuple[int, ...], int]


@dataclass(frozen=True)
class DynamicSlice:
    """`nl.ds(start, size)`; `start` may be a register."""

    start: Any
    size: int


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def refuse(what: str, help: str = "") -> HardwareLimit:
    return HardwareLimit(what, help=help)


def index(window: Window, key: Any, on_chip: bool) -> Window:
    """`tensor[key]` with integers, slices, `nl.ds`, an ellipsis."""
    keys = _expand(key if isinstance(key, tuple) else (key,), len(window[0]))
    shape, strides, offset = window
    out_shape, out_strides, dropped = [], [], []
    for dim, item in enumerate(keys):
        start, count, step, drop = _resolve(item, shape[dim], dim)
        offset += start * strides[dim]
        if drop and not (on_chip and dim == 0):
            dropped.append((dim, strides[dim]))
            continue
        out_shape.append(count)
        out_strides.append(step * strides[dim])
    if not out_shape or (on_chip and len(out_shape) == 1 and dropped):
        # On-chip views keep a free dimension, HBM views keep one dimension.
        out_shape.append(1)
        out_strides.append(dropped[-1][1])
    return tuple(out_shape), tuple(out_strides), offset


def _expand(keys: tuple, ndim: int) -> list[Any]:
    given = [k for k in keys if k is not Ellipsis]
    if len(given) > ndim:
        raise refuse(f"{len(given)} indices for a tensor of {ndim} dimensions")
    fill = [builtins.slice(None)] * (ndim - len(given))
    where = next((i for i, k in enumerate(keys) if k is Ellipsis), None)
    if where is not None:
        return [*keys[:where], *fill, *keys[where + 1 :]]
    return [*keys, *fill]


def _resolve(item: Any, size: int, dim: int) -> tuple[int, int, int, bool]:
    """(start, count, step, drop) of one index on a dimension of `size`."""
    if isinstance(item, DynamicSlice):
        start = value_of(item.start)
        _check_range(start, start + item.size, size, dim)
        return start, item.size, 1, False
    if isinstance(item, builtins.slice):
        return _resolve_slice(item, size, dim)
    if isinstance(item, (int, np.integer, VirtualRegister)):
        start = value_of(item)
        start += size if start < 0 else 0
        _check_range(start, start + 1, size, dim)
        return start, 1, 1, True
    raise refuse(
        f"a tensor cannot be indexed with {type(item).__name__}",
        help="use integers, slices, nl.ds(start, size) or `...`",
    )


def _resolve_slice(item: Any, size: int, dim: int) -> tuple[int, int, int, bool]:
    step = 1 if item.step is None else value_of(item.step)
    start = 0 if item.start is None else value_of(item.start)
    stop = size if item.stop is None else value_of(item.stop)
    start += size if start < 0 else 0
    stop += size if stop < 0 else 0
    if step < 1:
        raise refuse(f"slice step {step} on dim {dim}: steps are positive")
    _check_range(start, stop, size, dim)
    return start, -(-(stop - start) // step), step, False


def _check_range(start: int, stop: int, size: int, dim: int) -> None:
    if not 0 <= start < stop <= size:
        raise refuse(f"index {start}:{stop} is empty or outside dim {dim} of size {size}")


def slice_dim(window: Window, dim: int, start: int, end: int, step: int) -> Window:
    shape, strides, offset = (list(window[0]), list(window[1]), window[2])
    first, count, step, _ = _resolve_slice(builtins.slice(start, end, step), shape[dim], dim)
    offset += first * strides[dim]
    shape[dim], strides[dim] = count, strides[dim] * step
    return tuple(shape), tuple(strides), offset


def select_dim(window: Window, dim: int, at: int, on_chip: bool) -> Window:
    keys: list[Any] = [builtins.slice(None)] * len(window[0])
    keys[dim] = at
    return index(window, tuple(keys), on_chip)


def check_on_chip(window: Window, partitions: int, row_elements: int, indirect: bool) -> None:
    """Refuse an explicit pattern that leaves (partitions, row_elements) or strides over partitions.

    indirect: a run-time index says which partitions.
    """
    shape, strides, offset = window
    check_dims(len(shape))
    if shape[0] > 1 and strides[0] != row_elements and not indirect:
        raise refuse(
            f"ap: partition stride {strides[0]} differs from the {row_elements} elements of a"
            " partition",
            help="all partitions are accessed in order; slice the partitions instead",
        )
    first, start = divmod(offset, row_elements) if row_elements else (0, 0)
    low, high = reach(start, shape[1:], strides[1:])
    if first < 0 or first + shape[0] > partitions or low < 0 or high >= row_elements:
        raise refuse(f"ap: pattern {_pattern(window)} at {offset} leaves the tensor")


def check_in_memory(window: Window, num_elements: int) -> None:
    """Refuse an explicit pattern that leaves an HBM tensor."""
    shape, strides, offset = window
    check_dims(len(shape))
    low, high = reach(offset, shape, strides)
    if low < 0 or high >= num_elements:
        raise refuse(f"ap: pattern {_pattern(window)} at {offset} leaves {num_elements} elements")


def _pattern(window: Window) -> list[list[int]]:
    shape, strides, _ = window
    return [[stride, count] for stride, count in zip(strides, shape, strict=True)]


def check_dims(count: int) -> None:
    if count > MAX_VIEW_DIMS:
        raise refuse(f"a view of {count} dimensions; the limit is {MAX_VIEW_DIMS}")

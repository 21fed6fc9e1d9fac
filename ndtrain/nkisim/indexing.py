"""Arithmetic on views: (shape, strides, offset) in elements; nothing here touches memory.

The rules for dim 0 of on-chip tensors follow nki/get-started/nki-language-guide.rst of the Neuron
SDK: the partition dimension stays first and is never dropped, and a view keeps two dimensions.
"""

from __future__ import annotations

import builtins
import itertools
import math
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


def _refuse(what: str, help: str = "") -> HardwareLimit:
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
        raise _refuse(f"{len(given)} indices for a tensor of {ndim} dimensions")
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
    raise _refuse(
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
        raise _refuse(f"slice step {step} on dim {dim}: steps are positive")
    _check_range(start, stop, size, dim)
    return start, -(-(stop - start) // step), step, False


def _check_range(start: int, stop: int, size: int, dim: int) -> None:
    if not 0 <= start < stop <= size:
        raise _refuse(f"index {start}:{stop} is empty or outside dim {dim} of size {size}")


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


def permute(window: Window, dims: tuple[int, ...], fixed_first: bool) -> Window:
    shape, strides, offset = window
    if sorted(dims) != list(range(len(shape))):
        raise _refuse(f"permute{tuple(dims)} is no permutation of {len(shape)} dimensions")
    if fixed_first and dims[0] != 0:
        raise _refuse("permute cannot move the partition dimension")
    return tuple(shape[d] for d in dims), tuple(strides[d] for d in dims), offset


def broadcast(window: Window, dim: int, size: int, on_chip: bool) -> Window:
    shape, strides, offset = list(window[0]), list(window[1]), window[2]
    if shape[dim] != 1:
        raise _refuse(f"broadcast needs size 1, dim {dim} has {shape[dim]}")
    if on_chip and dim == 0:
        raise _refuse("the partition dimension cannot be broadcast")
    shape[dim], strides[dim] = size, 0
    return tuple(shape), tuple(strides), offset


def expand_dim(window: Window, dim: int, fixed_first: bool) -> Window:
    _keep_first(dim, fixed_first, "expand_dim")
    shape, strides, offset = list(window[0]), list(window[1]), window[2]
    step = strides[dim] * shape[dim] if dim < len(shape) else 1
    shape.insert(dim, 1)
    strides.insert(dim, step)
    _check_dims(len(shape))
    return tuple(shape), tuple(strides), offset


def squeeze_dim(window: Window, dim: int, fixed_first: bool) -> Window:
    _keep_first(dim, fixed_first, "squeeze_dim")
    shape, strides, offset = list(window[0]), list(window[1]), window[2]
    if shape.pop(dim) != 1:
        raise _refuse(f"squeeze_dim({dim}) of a dimension whose size is not 1")
    strides.pop(dim)
    return tuple(shape), tuple(strides), offset


def split_dim(window: Window, dim: int, sizes: tuple[int, ...], fixed_first: bool) -> Window:
    shape, strides, offset = window
    sizes = _infer(sizes, shape[dim])
    if len(sizes) > 1:
        _keep_first(dim, fixed_first, "reshape_dim")
    steps = tuple(s * strides[dim] for s in row_major(sizes))
    _check_dims(len(shape) + len(sizes) - 1)
    return (
        (*shape[:dim], *sizes, *shape[dim + 1 :]),
        (*strides[:dim], *steps, *strides[dim + 1 :]),
        offset,
    )


def _infer(sizes: tuple[int, ...], total: int) -> tuple[int, ...]:
    known = math.prod(s for s in sizes if s != -1)
    filled = tuple(total // known if s == -1 else s for s in sizes)
    if math.prod(filled) != total:
        raise _refuse(f"sizes {tuple(sizes)} do not make up {total} elements")
    return filled


def merge_dims(window: Window, first: int, last: int, fixed_first: bool) -> Window:
    _keep_first(first, fixed_first, "flatten_dims")
    shape, strides, offset = window
    inner = _merged(shape[first : last + 1], strides[first : last + 1])
    if inner is None:
        raise _refuse(f"flatten_dims({first}, {last}): the dimensions are not contiguous")
    size = math.prod(shape[first : last + 1])
    return (
        (*shape[:first], size, *shape[last + 1 :]),
        (*strides[:first], inner, *strides[last + 1 :]),
        offset,
    )


def _merged(shape: tuple[int, ...], strides: tuple[int, ...]) -> int | None:
    """The stride of the single dimension that equals these, or None."""
    pairs = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    if not pairs:
        return strides[-1]
    for (_, outer), (count, inner) in itertools.pairwise(pairs):
        if outer != count * inner:
            return None
    return pairs[-1][1]


def reshape(window: Window, wanted: tuple[int, ...], fixed_first: bool) -> Window:
    shape, strides, offset = window
    wanted = _infer(tuple(int(s) for s in wanted), math.prod(shape))
    _check_dims(len(wanted))
    if fixed_first:
        if wanted[0] != shape[0]:
            raise _refuse(f"reshape {shape} -> {wanted} changes the partition dimension")
        free = _reshape_free(shape[1:], strides[1:], wanted[1:])
        return wanted, (strides[0], *free), offset
    return wanted, _reshape_free(shape, strides, wanted), offset


def _reshape_free(
    shape: tuple[int, ...], strides: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[int, ...]:
    """Strides that give `wanted` over the same elements in the same order."""
    groups: list[list[int]] = []  # runs of dimensions that one stride covers
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if groups and groups[-1][1] == size * stride:
            groups[-1] = [groups[-1][0] * size, stride]
        else:
            groups.append([size, stride])
    out: list[int] = []
    for size in reversed(wanted):
        if size == 1:
            out.append(1)
            continue
        if not groups or groups[-1][0] % size:
            raise _refuse(f"reshape {shape} -> {wanted} is no view of the memory layout")
        out.append(groups[-1][1])
        groups[-1] = [groups[-1][0] // size, groups[-1][1] * size]
        if groups[-1][0] == 1:
            groups.pop()
    return tuple(reversed(out))


def reinterpret(window: Window, old: int, new: int) -> Window:
    """The same bytes with elements of `new` instead of `old` bytes."""
    shape, strides, offset = window
    if old == new:
        return window
    if shape[-1] != 1 and strides[-1] != 1:
        raise _refuse("view(dtype) needs a contiguous last dimension")
    byte_strides = [s * old for s in strides[:-1]]
    last, start = shape[-1] * old, offset * old
    if last % new or start % new or any(b % new for b in byte_strides):
        raise _refuse(f"view(dtype): the last dimension is no multiple of {new} bytes")
    return (
        (*shape[:-1], last // new),
        (*(b // new for b in byte_strides), 1),
        start // new,
    )


def check_on_chip(window: Window, partitions: int, row_elements: int, indirect: bool) -> None:
    """Refuse an explicit pattern that leaves (partitions, row_elements) or strides over partitions.

    indirect: a run-time index says which partitions.
    """
    shape, strides, offset = window
    _check_dims(len(shape))
    if shape[0] > 1 and strides[0] != row_elements and not indirect:
        raise _refuse(
            f"ap: partition stride {strides[0]} differs from the {row_elements} elements of a"
            " partition",
            help="all partitions are accessed in order; slice the partitions instead",
        )
    first, start = divmod(offset, row_elements) if row_elements else (0, 0)
    low, high = reach(start, shape[1:], strides[1:])
    if first < 0 or first + shape[0] > partitions or low < 0 or high >= row_elements:
        raise _refuse(f"ap: pattern {_pattern(window)} at {offset} leaves the tensor")


def check_in_memory(window: Window, num_elements: int) -> None:
    """Refuse an explicit pattern that leaves an HBM tensor."""
    shape, strides, offset = window
    _check_dims(len(shape))
    low, high = reach(offset, shape, strides)
    if low < 0 or high >= num_elements:
        raise _refuse(f"ap: pattern {_pattern(window)} at {offset} leaves {num_elements} elements")


def _pattern(window: Window) -> list[list[int]]:
    shape, strides, _ = window
    return [[stride, count] for stride, count in zip(strides, shape, strict=True)]


def rearrange(
    window: Window, source: tuple, target: tuple, sizes: dict[str, int], fixed_first: bool
) -> Window:
    """einops-like: split the grouped dims of `source`, permute, merge the groups of `target`."""
    names: list[str] = []
    for entry in source:
        group = (entry,) if isinstance(entry, str) else tuple(entry)
        if len(group) > 1:
            counts = tuple(sizes.get(n, -1) for n in group)
            window = split_dim(window, len(names), counts, fixed_first)
        names.extend(group)
    order = [n for entry in target for n in ((entry,) if isinstance(entry, str) else entry)]
    if sorted(order) != sorted(names):
        raise _refuse(f"rearrange: {source} and {target} do not name the same dimensions")
    window = permute(window, tuple(names.index(n) for n in order), fixed_first)
    for dim, entry in enumerate(target):
        if not isinstance(entry, str) and len(entry) > 1:
            window = merge_dims(window, dim, dim + len(entry) - 1, fixed_first)
    return window


def _keep_first(dim: int, fixed_first: bool, what: str) -> None:
    if fixed_first and dim == 0:
        raise _refuse(f"{what} cannot change the partition dimension")


def _check_dims(count: int) -> None:
    if count > MAX_VIEW_DIMS:
        raise _refuse(f"a view of {count} dimensions; the limit is {MAX_VIEW_DIMS}")

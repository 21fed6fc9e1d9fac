"""Views that permute, split, merge or reinterpret dimensions; nothing here touches memory.

A view is a window: (shape, strides, offset) in elements. The partition dimension of an on-chip
tensor stays first (nki/get-started/nki-language-guide.rst of the Neuron SDK).
"""

from __future__ import annotations

import itertools
import math

from ndtrain.nkisim.indexing import Window, check_dims, refuse, row_major


def permute(window: Window, dims: tuple[int, ...], fixed_first: bool) -> Window:
    shape, strides, offset = window
    if sorted(dims) != list(range(len(shape))):
        raise refuse(f"permute{tuple(dims)} is no permutation of {len(shape)} dimensions")
    if fixed_first and dims[0] != 0:
        raise refuse("permute cannot move the partition dimension")
    return tuple(shape[d] for d in dims), tuple(strides[d] for d in dims), offset


def broadcast(window: Window, dim: int, size: int, on_chip: bool) -> Window:
    shape, strides, offset = list(window[0]), list(window[1]), window[2]
    if shape[dim] != 1:
        raise refuse(f"broadcast needs size 1, dim {dim} has {shape[dim]}")
    if on_chip and dim == 0:
        raise refuse("the partition dimension cannot be broadcast")
    shape[dim], strides[dim] = size, 0
    return tuple(shape), tuple(strides), offset


def expand_dim(window: Window, dim: int, fixed_first: bool) -> Window:
    _keep_first(dim, fixed_first, "expand_dim")
    shape, strides, offset = list(window[0]), list(window[1]), window[2]
    step = strides[dim] * shape[dim] if dim < len(shape) else 1
    shape.insert(dim, 1)
    strides.insert(dim, step)
    check_dims(len(shape))
    return tuple(shape), tuple(strides), offset


def squeeze_dim(window: Window, dim: int, fixed_first: bool) -> Window:
    _keep_first(dim, fixed_first, "squeeze_dim")
    shape, strides, offset = list(window[0]), list(window[1]), window[2]
    if shape.pop(dim) != 1:
        raise refuse(f"squeeze_dim({dim}) of a dimension whose size is not 1")
    strides.pop(dim)
    return tuple(shape), tuple(strides), offset


def split_dim(window: Window, dim: int, sizes: tuple[int, ...], fixed_first: bool) -> Window:
    shape, strides, offset = window
    sizes = _infer(sizes, shape[dim])
    if len(sizes) > 1:
        _keep_first(dim, fixed_first, "reshape_dim")
    steps = tuple(s * strides[dim] for s in row_major(sizes))
    check_dims(len(shape) + len(sizes) - 1)
    return (
        (*shape[:dim], *sizes, *shape[dim + 1 :]),
        (*strides[:dim], *steps, *strides[dim + 1 :]),
        offset,
    )


def _infer(sizes: tuple[int, ...], total: int) -> tuple[int, ...]:
    known = math.prod(s for s in sizes if s != -1)
    filled = tuple(total // known if s == -1 else s for s in sizes)
    if math.prod(filled) != total:
        raise refuse(f"sizes {tuple(sizes)} do not make up {total} elements")
    return filled


def merge_dims(window: Window, first: int, last: int, fixed_first: bool) -> Window:
    _keep_first(first, fixed_first, "flatten_dims")
    shape, strides, offset = window
    inner = _merged(shape[first : last + 1], strides[first : last + 1])
    if inner is None:
        raise refuse(f"flatten_dims({first}, {last}): the dimensions are not contiguous")
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
    check_dims(len(wanted))
    if fixed_first:
        if wanted[0] != shape[0]:
            raise refuse(f"reshape {shape} -> {wanted} changes the partition dimension")
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
            raise refuse(f"reshape {shape} -> {wanted} is no view of the memory layout")
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
        raise refuse("view(dtype) needs a contiguous last dimension")
    byte_strides = [s * old for s in strides[:-1]]
    last, start = shape[-1] * old, offset * old
    if last % new or start % new or any(b % new for b in byte_strides):
        raise refuse(f"view(dtype): the last dimension is no multiple of {new} bytes")
    return (
        (*shape[:-1], last // new),
        (*(b // new for b in byte_strides), 1),
        start // new,
    )


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
        raise refuse(f"rearrange: {source} and {target} do not name the same dimensions")
    window = permute(window, tuple(names.index(n) for n in order), fixed_first)
    for dim, entry in enumerate(target):
        if not isinstance(entry, str) and len(entry) > 1:
            window = merge_dims(window, dim, dim + len(entry) - 1, fixed_first)
    return window


def _keep_first(dim: int, fixed_first: bool, what: str) -> None:
    if fixed_first and dim == 0:
        raise refuse(f"{what} cannot change the partition dimension")

"""`NkiTensor`: a strided view over a storage, with the view methods of NKI 0.6.

A view is (shape, strides, offset) in elements, as on the device; dim 0 of an SBUF or PSUM tensor is
the partition. Semantics: nki/get-started/nki-language-guide.rst and nki/deep-dives/nki-aps.rst of
the Neuron SDK.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndtrain.nkisim import indexing, reshaping, running
from ndtrain.nkisim.dtypes import DType, as_dtype
from ndtrain.nkisim.errors import HardwareLimit, missing_in_0_2, not_implemented
from ndtrain.nkisim.memory import ON_CHIP, Storage
from ndtrain.nkisim.objects import NKIObject
from ndtrain.nkisim.spaces import MemoryRegion


@dataclass(frozen=True)
class Indirection:
    """A run-time index on one dimension: offset += index * stride.

    vector: the index tensor has one row index for each partition (or row) of the view.
    limit: the number of valid indices, for bounds checks.
    """

    index: Any
    stride: int
    limit: int
    vector: bool


def _since_0_5(method: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a view method in a kernel that keeps to NKI 0.2."""

    @functools.wraps(method)
    def call(self: NkiTensor, *args: Any, **kwargs: Any) -> Any:
        if running.is_running() and running.core().api == "0.2":
            raise missing_in_0_2("NkiTensor", method.__name__)
        return method(self, *args, **kwargs)

    return call


class NkiTensor(NKIObject):
    """A view of device memory. Made by `nl.ndarray`; the methods return further views."""

    __slots__ = ("dtype", "indirection", "offset", "shape", "storage", "strides")

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        storage: Storage | None,
        buffer: Any = None,
        name: str = "",
        *,
        strides: tuple[int, ...] | None = None,
        offset: int = 0,
        indirection: Indirection | None = None,
    ) -> None:
        # `buffer` and `name` belong to the storage; the public signature has them.
        self.shape = tuple(shape)
        self.dtype: DType = as_dtype(dtype)
        self.storage = storage
        self.strides = indexing.row_major(self.shape) if strides is None else strides
        self.offset = offset
        self.indirection = indirection

    @property
    def buffer(self) -> MemoryRegion:
        return MemoryRegion(self._held.space)

    @property
    def name(self) -> str:
        return self._held.name

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def on_chip(self) -> bool:
        return self._held.space in ON_CHIP

    @property
    def space(self) -> str:
        return self._held.space

    @property
    def _held(self) -> Storage:
        if self.storage is None:
            raise HardwareLimit("this tensor is a signature placeholder and has no memory")
        return self.storage

    @property
    def window(self) -> indexing.Window:
        return self.shape, self.strides, self.offset

    @property
    def row_elements(self) -> int:
        """Elements of this dtype in one partition of the storage."""
        return self._held.row_bytes // self.dtype.itemsize

    @property
    def start_partition(self) -> int:
        base = self._held.address[0] if self._held.address else 0
        return base + self.offset // self.row_elements

    @property
    def free_size(self) -> int:
        return math.prod(self.shape[1:])

    def __repr__(self) -> str:
        held = f"{self.space} `{self.name}`" if self.storage else "no memory"
        return f"NkiTensor({list(self.shape)} {self.dtype} {held})"

    def __bool__(self) -> bool:
        raise HardwareLimit(
            "the truth of a tensor is not known while the kernel is built",
            help="load it into a register (nisa.register_load) and use nl.while_loop",
        )

    @_since_0_5
    def is_contiguous(self) -> bool:
        first = 1 if self.on_chip else 0
        return indexing.is_row_major(self.shape[first:], self.strides[first:])

    @_since_0_5
    def is_indirect(self) -> bool:
        return self.indirection is not None

    @_since_0_5
    def get_pattern(self) -> list[list[int]]:
        return [[s, n] for s, n in zip(self.strides, self.shape, strict=True)]

    def _with(self, window: indexing.Window, **changes: Any) -> NkiTensor:
        shape, strides, offset = window
        return NkiTensor(
            shape,
            changes.get("dtype", self.dtype),
            self.storage,
            strides=tuple(strides),
            offset=offset,
            indirection=changes.get("indirection", self.indirection),
        )

    def __getitem__(self, key: Any) -> NkiTensor:
        return self._with(indexing.index(self.window, key, self.on_chip))

    def __setitem__(self, key: Any, value: Any) -> None:
        raise HardwareLimit(
            "a tensor cannot be assigned to", help="write it with nisa.tensor_copy or nl.store"
        )

    @_since_0_5
    def slice(self, dim: int, start: int, end: int, step: int = 1) -> NkiTensor:
        return self._with(indexing.slice_dim(self.window, dim, start, end, step))

    @_since_0_5
    def select(self, dim: int, index: Any) -> NkiTensor:
        if isinstance(index, int):
            return self._with(indexing.select_dim(self.window, dim, index, self.on_chip))
        if self.on_chip and dim == 0:
            raise HardwareLimit("select on the partition dimension needs a static index")
        found = self._indirect(index, dim, vector=False)
        window = indexing.select_dim(self.window, dim, 0, self.on_chip)
        return self._with(window, indirection=found)

    @_since_0_5
    def vector_select(self, dim: int, vector_offset: NkiTensor) -> NkiTensor:
        if dim != 0 or self.on_chip:
            raise HardwareLimit("vector_select works on dim 0 of an HBM tensor")
        found = self._indirect(vector_offset, 0, vector=True)
        rows = vector_offset.shape[0]
        shape, strides, offset = self.window
        # The rows come from the index alone; the view's own row stride is not used.
        return self._with(((rows, *shape[1:]), (0, *strides[1:]), offset), indirection=found)

    def _indirect(self, index: Any, dim: int, *, vector: bool) -> Indirection:
        if self.indirection is not None:
            raise HardwareLimit("a tensor view can have only one run-time index")
        return Indirection(index, self.strides[dim], self.shape[dim], vector)

    @_since_0_5
    def permute(self, dims: tuple[int, ...]) -> NkiTensor:
        return self._with(reshaping.permute(self.window, dims, self._fixed_first))

    @_since_0_5
    def broadcast(self, dim: int, size: int) -> NkiTensor:
        return self._with(reshaping.broadcast(self.window, dim, size, self.on_chip))

    @_since_0_5
    def expand_dim(self, dim: int) -> NkiTensor:
        return self._with(reshaping.expand_dim(self.window, dim, self._fixed_first))

    @_since_0_5
    def squeeze_dim(self, dim: int) -> NkiTensor:
        return self._with(reshaping.squeeze_dim(self.window, dim, self._fixed_first))

    @_since_0_5
    def reshape_dim(self, dim: int, shape: tuple[int, ...]) -> NkiTensor:
        return self._with(reshaping.split_dim(self.window, dim, shape, self._fixed_first))

    @_since_0_5
    def flatten_dims(self, start_dim: int, end_dim: int) -> NkiTensor:
        return self._with(reshaping.merge_dims(self.window, start_dim, end_dim, self._fixed_first))

    def reshape(self, *shape: Any) -> NkiTensor:
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        return self._with(reshaping.reshape(self.window, tuple(wanted), self._fixed_first))

    @_since_0_5
    def rearrange(
        self, src_pattern: tuple, dst_pattern: tuple, fixed_sizes: dict[str, int] | None = None
    ) -> NkiTensor:
        names = src_pattern, dst_pattern, fixed_sizes or {}
        return self._with(reshaping.rearrange(self.window, *names, self._fixed_first))

    @property
    def _fixed_first(self) -> bool:
        vector = self.indirection is not None and self.indirection.vector
        return self.on_chip or vector

    def ap(
        self,
        pattern: Any,
        offset: int | None = None,
        scalar_offset: Any = None,
        vector_offset: Any = None,
        indirect_dim: int = 0,
        dtype: Any = None,
    ) -> NkiTensor:
        """An explicit access pattern [[stride, count], ...] over the whole storage."""
        kind = self.dtype if dtype is None else as_dtype(dtype)
        strides = tuple(int(s) for s, _ in pattern)
        shape = tuple(int(n) for _, n in pattern)
        base = self.offset * self.dtype.itemsize // kind.itemsize if offset is None else offset
        found = self._pattern_index(scalar_offset, vector_offset, indirect_dim)
        if found is not None and found.vector:
            strides = (0, *strides[1:])
        view = self._with((shape, strides, int(base)), dtype=kind, indirection=found)
        check_pattern(view)
        return view

    def _pattern_index(self, scalar: Any, vector: Any, dim: int) -> Indirection | None:
        if scalar is not None and vector is not None:
            raise HardwareLimit("scalar_offset and vector_offset exclude each other")
        index = scalar if vector is None else vector
        if index is None:
            return None
        if vector is not None and (dim != 0 or self.on_chip):
            raise HardwareLimit("vector_offset needs indirect_dim=0 and a tensor in HBM")
        return Indirection(index, self.strides[dim], self.shape[dim], vector is not None)

    @_since_0_5
    def view(self, dtype: Any) -> NkiTensor:
        kind = as_dtype(dtype)
        if self.indirection is not None:
            raise HardwareLimit("view(dtype) is not supported after a run-time index")
        return self._with(
            reshaping.reinterpret(self.window, self.dtype.itemsize, kind.itemsize), dtype=kind
        )

    reinterpret_cast = view

    def indirect(self, index: NkiTensor, num_elem: int | None = None) -> NkiTensor:
        raise not_implemented("NkiTensor.indirect")

    def numpy(self) -> np.ndarray:
        """A copy of the values, for a debugger; a kernel must not depend on them."""
        return self._held.view(self.window, self.dtype).copy()


def check_pattern(view: NkiTensor) -> None:
    """Refuse an explicit pattern that leaves the storage or strides over partitions."""
    if view.on_chip:
        partitions = view.storage.partitions if view.storage else 0
        indirect = view.indirection is not None
        indexing.check_on_chip(view.window, partitions, view.row_elements, indirect)
    else:
        indexing.check_in_memory(view.window, view.row_elements)

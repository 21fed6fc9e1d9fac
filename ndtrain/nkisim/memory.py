"""Where tensors live: private buffers, and one arena for SBUF and one for PSUM of each core.

A tensor with an explicit address is a window into the arena of its memory, so two tensors at
overlapping addresses see each other's bytes, as on the device. A tensor without an address gets
memory of its own; `occupancy` places it afterwards, by its lifetime.

Every byte has a taint byte beside it: nonzero means that nothing defined was written there. The
host keeps `scale` bytes for each device byte (1, or 4 in high-precision mode, where every
low-precision float is held as float32).
"""

from __future__ import annotations

import itertools
import math
import weakref

import numpy as np

from ndtrain.nkisim.dtypes import DType, host_dtype
from ndtrain.nkisim.errors import AliasError
from ndtrain.nkisim.target import NUM_PARTITIONS
from ndtrain.nkisim.trace import ON_CHIP, TensorInfo, view_extent

_TAINTED = 0xFF
_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_WORD = 4
_LANES = 16
Window = tuple[tuple[int, ...], tuple[int, ...], int]
"""(shape, element strides, element offset) of a view over a storage."""
Extent = tuple[int, int, int, int]
"""(first partition, end partition, first byte, end byte)."""


class Storage:
    """The memory of one `nl.ndarray`.

    partitions, row_bytes: extent on the device; HBM storages are one row.
    address: (partition, byte) when the kernel chose it, else None.
    taint: None while all of it is undefined, or none of it (`clean`).
    pitch: device bytes from one partition to the next in `data` and `taint`.
    """

    __slots__ = (
        "__weakref__", "address", "arena", "clean", "data", "dtype", "hazards", "ident", "info",
        "matmul_state", "name", "origin", "partitions", "pitch", "row_bytes", "scale",
        "shape", "shared_at", "space", "taint", "undefined", "written",
    )  # fmt: skip

    def __init__(
        self, info: TensorInfo, data: np.ndarray, scale: int, *, clean: bool = False,
        arena: Arena | None = None,
    ) -> None:  # fmt: skip
        self.info = info
        self.ident = info.ident
        self.space = info.space
        self.name = info.name
        self.shape = info.shape
        self.dtype = info.dtype
        self.partitions = info.partitions
        self.row_bytes = info.row_bytes
        self.address = info.address
        self.data = data
        self.scale = scale
        self.clean = clean
        self.arena = arena
        self.pitch = arena.row_bytes if arena else info.row_bytes
        start = info.address if arena and info.address else (0, 0)
        self.origin = start[0] * self.pitch + start[1]
        self.taint: np.ndarray | None = arena.taint if arena else None
        self.undefined = -1  # elements not written yet, while the count is reliable
        self.matmul_state: np.ndarray | None = None
        self.written = False
        self.hazards: object | None = None
        self.shared_at = (0, False)  # number of placed tensors when asked, and the answer

    def view(self, window: Window, dtype: DType) -> np.ndarray:
        """The elements of `window` as a NumPy view of host memory."""
        shape, strides, offset = self._bytes(window, dtype)
        scale = self.scale
        kind = host_dtype(dtype, scale == 1)
        return np.ndarray(shape, kind, self.data, offset * scale, tuple(s * scale for s in strides))

    def read_taint(self, window: Window, dtype: DType) -> np.ndarray | None:
        """A bool array, True where an element of `window` is undefined; None when none is."""
        if self.clean:
            return None
        if self.taint is None:
            return np.ones(window[0], bool)
        view = self._taint_view(window, dtype)
        return view != 0 if view.any() else None

    def write_taint(self, window: Window, dtype: DType, taint: np.ndarray | None) -> None:
        """Mark the elements of `window` defined, except where `taint` is True."""
        if taint is None and self.clean:
            return
        if taint is None and self.arena is None and self.is_whole(window, dtype):
            self.clean, self.taint = True, None
            return
        if self.taint is None:
            fill = 0 if self.clean else _TAINTED
            self.taint = np.full(self.partitions * self.row_bytes, fill, np.uint8)
            self.undefined = 0 if self.clean else self.taint.size // self.dtype.itemsize
        view = self._taint_view(window, dtype)
        if taint is None:
            self._count_defined(view, dtype)
            view[...] = 0
        else:
            self.clean, self.undefined = False, -1
            view[...] = np.where(taint, np.iinfo(view.dtype).max, 0)

    def is_whole(self, window: Window, dtype: DType) -> bool:
        """True when `window` covers every byte of this storage once."""
        shape, strides, offset = window
        if offset or math.prod(shape) * dtype.itemsize != self.partitions * self.row_bytes:
            return False
        return len(shape) == 1 or all(strides)

    def _count_defined(self, view: np.ndarray, dtype: DType) -> None:
        # A storage that was filled piece by piece is known clean once no element is left, which
        # spares every later read the search. -1: lost count (mixed element sizes, taint written).
        if self.undefined < 0 or self.arena is not None:
            return
        if dtype.itemsize != self.dtype.itemsize:
            self.undefined = -1
            return
        self.undefined -= int(np.count_nonzero(view))
        if self.undefined == 0:
            self.clean = True

    def _taint_view(self, window: Window, dtype: DType) -> np.ndarray:
        shape, strides, offset = self._bytes(window, dtype)
        return np.ndarray(shape, _UINT[dtype.itemsize], self.taint, offset, strides)

    def matmul_view(self, window: Window, dtype: DType) -> np.ndarray:
        """Per element of `window`, nonzero where the last write was a matmul's."""
        if self.matmul_state is None:
            self.matmul_state = np.zeros(self.partitions * self.row_bytes, np.uint8)
        shape, strides, offset = self._relative(window, dtype, self.row_bytes)
        return np.ndarray(shape, _UINT[dtype.itemsize], self.matmul_state, offset, strides)

    def _bytes(self, window: Window, dtype: DType) -> Window:
        shape, strides, offset = self._relative(window, dtype, self.pitch)
        return shape, strides, offset + self.origin

    def _relative(self, window: Window, dtype: DType, pitch: int) -> Window:
        shape, strides, offset = window
        size = dtype.itemsize
        if self.space not in ON_CHIP:
            return shape, tuple(s * size for s in strides), offset * size
        row = self.row_bytes // size
        first, free = divmod(offset, row)
        rows = strides[0] // row if shape[0] > 1 else 1
        byte_strides = (rows * pitch, *(s * size for s in strides[1:]))
        return shape, byte_strides, first * pitch + free * size

    def whole(self) -> Extent:
        """The extent of the storage itself."""
        start, base = self.address or (0, 0)
        return start, start + self.partitions, base, base + self.row_bytes

    def extent(self, window: Window, dtype: DType) -> Extent:
        """The partitions and bytes that `window` can touch."""
        shape, strides, offset = window
        return view_extent(self.info, shape, strides, offset, dtype.itemsize)


class Arena:
    """The whole SBUF or PSUM of one core, for tensors at explicit addresses.

    Who wrote last is known for blocks of 16 partitions x 4 bytes: a quarter of what the start
    partitions of the engines can tell apart, times the smallest alignment.
    """

    def __init__(self, space: str, row_bytes: int, scale: int) -> None:
        self.space = space
        self.row_bytes = row_bytes
        self.scale = scale
        self.data = np.zeros(NUM_PARTITIONS * row_bytes * scale, np.uint8)
        self.taint = np.full(NUM_PARTITIONS * row_bytes, _TAINTED, np.uint8)
        blocks = (NUM_PARTITIONS // _LANES, row_bytes // _WORD)
        self._owners = np.zeros(blocks, np.int32)
        self._covered = np.zeros(blocks, np.int32)
        self._placed: list[weakref.ref[Storage]] = []

    def place(self, storage: Storage) -> None:
        """Count `storage` over its blocks."""
        self._placed.append(weakref.ref(storage))
        self._covered[_blocks(storage.whole())] += 1

    def wrote(self, storage: Storage, extent: Extent) -> None:
        """Remember that `storage` was the last to write `extent`, if others lie there too."""
        if self._shares(storage):
            self._owners[_blocks(extent)] = storage.ident

    def _shares(self, storage: Storage) -> bool:
        """True when another tensor was ever placed over a block of `storage`."""
        if storage.shared_at[0] != len(self._placed):
            shared = bool(self._covered[_blocks(storage.whole())].max() > 1)
            storage.shared_at = (len(self._placed), shared)
        return storage.shared_at[1]

    def check_read(self, storage: Storage, extent: Extent) -> None:
        """Refuse a read of bytes that another tensor overwrote after `storage` wrote them."""
        if not storage.written or not self._shares(storage):
            return  # a storage never written is an alias: it looks at what the other put there
        owners = self._owners[_blocks(extent)]
        others = owners[(owners != storage.ident) & (owners != 0)]
        if others.size:
            raise AliasError(
                f"tensor `{storage.name}` at {self.space} address {storage.address} is read after "
                f"another tensor wrote over a part of it",
                help="live tensors overlap; at the same bytes lie "
                + ", ".join(sorted(self._names(storage))),
            )

    def _names(self, storage: Storage) -> set[str]:
        placed = (ref() for ref in self._placed)
        return {
            f"`{s.name}` {s.address} {list(s.shape)} {s.dtype} of {s.info.line}"
            for s in placed
            if s is not None and s is not storage and _overlap(storage, s)
        }


def _blocks(extent: Extent) -> tuple[slice, slice]:
    p0, p1, b0, b1 = extent
    return slice(p0 // _LANES, -(-p1 // _LANES)), slice(b0 // _WORD, -(-b1 // _WORD))


def _overlap(a: Storage, b: Storage) -> bool:
    p0, p1, b0, b1 = a.whole()
    q0, q1, c0, c1 = b.whole()
    return p0 < q1 and q0 < p1 and b0 < c1 and c0 < b1


class Allocator:
    """Makes storages; one for all cores and ranks of a run, so that identities are unique."""

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self._ids = itertools.count(1)

    def describe(
        self, space: str, shape: tuple[int, ...], dtype: DType, name: str, line: str,
        address: tuple[int, int] | None = None,
    ) -> TensorInfo:  # fmt: skip
        ident = next(self._ids)
        partitions, row = _geometry(space, shape, dtype)
        return TensorInfo(
            ident, space, name or f"{space}{ident}", shape, dtype, partitions, row, address, line
        )

    def private(self, info: TensorInfo, *, defined: bool = False) -> Storage:
        """A storage with memory of its own; all of it undefined unless `defined`."""
        total = info.partitions * info.row_bytes * self.scale
        return Storage(info, np.zeros(total, np.uint8), self.scale, clean=defined)

    def at(self, arena: Arena, info: TensorInfo) -> Storage:
        """A storage at the address of `info` in `arena`."""
        storage = Storage(info, arena.data, self.scale, arena=arena)
        arena.place(storage)
        return storage


def _geometry(space: str, shape: tuple[int, ...], dtype: DType) -> tuple[int, int]:
    if space in ON_CHIP:
        row = dtype.itemsize
        for size in shape[1:]:
            row *= size
        return shape[0], row
    total = dtype.itemsize
    for size in shape:
        total *= size
    return 1, total

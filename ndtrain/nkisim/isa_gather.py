"""GpSimd gathers inside SBUF, and the ones that search for positions."""

from __future__ import annotations

import numpy as np

from ndtrain.nkisim import checks, values
from ndtrain.nkisim.dtypes import float32, int32, uint16, uint32
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.machine import Core, Taint, current
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction

_GPSIMD_LANES = 16
"""Partitions that one of the eight GpSimd cores connects to."""
_GATHER_WIDTHS = (1, 2, 4, 8, 16, 32)
_MAX_INDICES = 4096


def nc_n_gather(
    dst: NkiTensor, data: NkiTensor, indices: NkiTensor, name: str | None = None
) -> Instruction:
    core = current()

    def check() -> None:
        checks.same_partitions(data=data, indices=indices, dst=dst)
        checks.same_elements(indices=indices, dst=dst)
        if indices.dtype != uint32 or dst.dtype != data.dtype:
            raise HardwareLimit(f"`indices` is {indices.dtype} (uint32), `dst` is {dst.dtype}, "
                                f"`data` is {data.dtype} (equal types)")  # fmt: skip

    def execute() -> None:
        at = values.rows(core.raw(indices)).astype(np.int64)
        if at.max() >= data.free_size:
            raise HardwareLimit(
                f"`indices` holds {at.max()}; `data` has {data.free_size} elements per partition"
            )
        result = np.take_along_axis(values.rows(core.raw(data)), at, axis=1)
        core.store(dst, result, _picked(core, data, indices, at), raw=True)

    return core.issue("nc_n_gather", "gpsimd", writes={"dst": dst},
                      reads={"data": data, "indices": indices}, execute=execute, check=check,
                      name=name)  # fmt: skip


def _picked(core: Core, data: NkiTensor, index: NkiTensor, at: np.ndarray) -> Taint:
    source, chosen = values.join(core, data), values.join(core, index)
    if source is None:
        return chosen
    taint = np.take_along_axis(source, at, axis=1)
    return taint if chosen is None else taint | chosen


def local_gather(
    dst: NkiTensor, src_buffer: NkiTensor, index: NkiTensor, num_elem_per_idx: int = 1,
    num_valid_indices: int | None = None, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    held = index.free_size * _GPSIMD_LANES
    count = held if num_valid_indices is None else num_valid_indices

    def check() -> None:
        checks.same_partitions(src_buffer=src_buffer, index=index, dst=dst)
        if index.shape[0] % _GPSIMD_LANES or index.dtype != uint16:
            raise HardwareLimit(f"`index` {list(index.shape)} {index.dtype}: a multiple of 16 "
                                "partitions of uint16")  # fmt: skip
        if num_elem_per_idx not in _GATHER_WIDTHS:
            raise HardwareLimit(f"`num_elem_per_idx` {num_elem_per_idx}; use {_GATHER_WIDTHS}")
        if src_buffer.free_size % num_elem_per_idx:
            raise HardwareLimit(f"`src_buffer` has {src_buffer.free_size} elements per partition, "
                                f"no multiple of {num_elem_per_idx}")  # fmt: skip
        if not 1 <= count <= min(held, _MAX_INDICES):
            raise HardwareLimit(f"{count} valid indices; `index` holds {held} for a GpSimd core, "
                                f"which takes up to {_MAX_INDICES}")  # fmt: skip
        if dst.free_size != count * num_elem_per_idx or dst.dtype != src_buffer.dtype:
            raise HardwareLimit(f"`dst` {list(dst.shape)} {dst.dtype} does not hold {count} x "
                                f"{num_elem_per_idx} of {src_buffer.dtype}")  # fmt: skip

    def execute() -> None:
        source, indices = values.rows(core.raw(src_buffer)), values.rows(core.raw(index))
        rows = source.reshape(source.shape[0], -1, num_elem_per_idx)
        result = np.empty((source.shape[0], count, num_elem_per_idx), source.dtype)
        for first in range(0, source.shape[0], _GPSIMD_LANES):
            lanes = slice(first, first + _GPSIMD_LANES)
            flat = indices[lanes].T.reshape(-1)[:count].astype(np.int64)
            if flat.max() >= rows.shape[1]:
                raise HardwareLimit(
                    f"`index` holds {flat.max()}; `src_buffer` has {rows.shape[1]} x "
                    f"{num_elem_per_idx} elements per partition"
                )
            result[lanes] = rows[lanes][:, flat]
        taint = values.any_in_row(values.join(core, src_buffer, index))
        core.store(dst, result, None if taint is None else taint[..., None], raw=True)

    return core.issue("local_gather", "gpsimd", writes={"dst": dst},
                      reads={"src_buffer": src_buffer, "index": index}, execute=execute,
                      check=check, name=name)  # fmt: skip


def nonzero_with_count(
    dst: NkiTensor, src: NkiTensor, index_offset: int = 0, padding_val: int = -1,
    name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()

    def check() -> None:
        checks.generation(core.target, 3, "nonzero_with_count")
        checks.same_partitions(src=src, dst=dst)
        if dst.free_size != src.free_size + 1:
            raise HardwareLimit(f"`dst` has {dst.free_size} elements, `src` {src.free_size}: one "
                                "more is needed for the count")  # fmt: skip
        if src.dtype not in (float32, int32) or dst.dtype != int32:
            raise HardwareLimit(f"`src` is {src.dtype} (float32, int32), `dst` {dst.dtype} (int32)")

    def execute() -> None:
        source, marks = values.rows(core.raw(src)), values.any_in_row(values.join(core, src))
        for lane in range(0, source.shape[0], _GPSIMD_LANES):
            found = np.flatnonzero(source[lane]) + index_offset
            row = np.full(dst.free_size, padding_val, np.int32)
            row[: len(found)], row[-1] = found, len(found)
            taint = None if marks is None or not marks[lane] else np.ones((1, row.size), bool)
            core.store(dst[lane : lane + 1], row[None], taint, raw=True)

    return core.issue("nonzero_with_count", "gpsimd", writes={"dst": dst}, reads={"src": src},
                      execute=execute, check=check, name=name)  # fmt: skip


def sequence_bounds(dst: NkiTensor, segment_ids: NkiTensor, name: str | None = None) -> Instruction:
    core = current()

    def check() -> None:
        one_row = segment_ids.shape[0] == dst.shape[0] == 1
        if not one_row or dst.free_size != 2 * segment_ids.free_size:
            raise HardwareLimit(f"`segment_ids` {list(segment_ids.shape)}, `dst` "
                                f"{list(dst.shape)}: [1, n] and [1, 2, n]")  # fmt: skip
        if not {segment_ids.dtype, dst.dtype} <= {float32, int32}:
            raise HardwareLimit(f"`segment_ids` is {segment_ids.dtype}, `dst` {dst.dtype}: float32 "
                                "or int32")  # fmt: skip

    def execute() -> None:
        ids = core.raw(segment_ids).reshape(-1)
        count = ids.size
        begins, ends = np.full(count, count), np.full(count, -1)
        for value in np.unique(ids[ids != 0]):
            where = np.flatnonzero(ids == value)
            begins[where], ends[where] = where[0], where[-1] + 1
        taint = values.any_in_row(values.join(core, segment_ids))
        core.store(dst, np.concatenate((begins, ends))[None].astype(np.float32), taint)

    return core.issue("sequence_bounds", "gpsimd", writes={"dst": dst},
                      reads={"segment_ids": segment_ids}, execute=execute, check=check,
                      name=name)  # fmt: skip

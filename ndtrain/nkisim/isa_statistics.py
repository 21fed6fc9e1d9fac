"""Statistics and searches of the Vector Engine: bn_stats, bn_aggr, max8 and its companions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim import checks, values
from ndtrain.nkisim.dtypes import uint16, uint32
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.machine import current
from ndtrain.nkisim.target import BN_STATS_FREE
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction

_EIGHT = 8
_MAX_SEARCH = 16384


def bn_stats(dst: NkiTensor, data: NkiTensor, name: str | None = None) -> Instruction:
    core = current()

    def check() -> None:
        checks.same_partitions(data=data, dst=dst)
        if data.free_size > BN_STATS_FREE:
            raise HardwareLimit(f"`data` has {data.free_size} elements; the limit is 512")
        if dst.free_size != 6:
            raise HardwareLimit(f"`dst` has {dst.free_size} elements per partition, not 6")

    def execute() -> None:
        source = values.rows(core.load(data))
        parts = []
        for half in (source[:, 0::2], source[:, 1::2]):
            count = half.shape[1]
            mean = half.mean(axis=1) if count else np.zeros(len(half), np.float32)
            spread = ((half - mean[:, None]) ** 2).sum(axis=1)
            parts += [np.full(len(half), count, np.float32), mean, spread]
        taint = values.any_in_row(values.join(core, data))
        core.store(dst, np.stack(parts, axis=1).astype(np.float32), taint)

    return core.issue("bn_stats", "vector", writes={"dst": dst}, reads={"data": data},
                      execute=execute, check=check, name=name)  # fmt: skip


def bn_aggr(dst: NkiTensor, data: NkiTensor, name: str | None = None) -> Instruction:
    core = current()

    def check() -> None:
        checks.same_partitions(data=data, dst=dst)
        if data.free_size % 3 or dst.free_size != 2:
            raise HardwareLimit(
                f"`data` has {data.free_size} elements per partition (a multiple of 3), `dst` has "
                f"{dst.free_size} (2)"
            )

    def execute() -> None:
        triples = values.rows(core.load(data)).reshape(data.shape[0], -1, 3)
        count, mean, spread = triples[..., 0], triples[..., 1], triples[..., 2]
        total = count.sum(axis=1)
        center = (count * mean).sum(axis=1) / total
        variance = (spread + count * (mean - center[:, None]) ** 2).sum(axis=1) / total
        taint = values.any_in_row(values.join(core, data))
        core.store(dst, np.stack((center, variance), axis=1).astype(np.float32), taint)

    return core.issue("bn_aggr", "vector", writes={"dst": dst}, reads={"data": data},
                      execute=execute, check=check, name=name)  # fmt: skip


def _check_search(data: NkiTensor, **eights: NkiTensor) -> None:
    if not _EIGHT <= data.free_size <= _MAX_SEARCH:
        raise HardwareLimit(f"{data.free_size} elements per partition; 8 to {_MAX_SEARCH}")
    for role, tensor in eights.items():
        if tensor.free_size != _EIGHT:
            raise HardwareLimit(f"`{role}` has {tensor.free_size} elements per partition, not 8")
    checks.same_partitions(data=data, **eights)


def max8(dst: NkiTensor, src: NkiTensor, name: str | None = None) -> Instruction:
    core = current()

    def execute() -> None:
        source = values.rows(core.load(src))
        top = -np.sort(-source, axis=1)[:, :_EIGHT]
        core.store(dst, top, values.any_in_row(values.join(core, src)))

    return core.issue("max8", "vector", writes={"dst": dst}, reads={"src": src}, execute=execute,
                      check=lambda: _check_search(src, dst=dst), name=name)  # fmt: skip


def nc_find_index8(
    dst: NkiTensor, data: NkiTensor, vals: NkiTensor, name: str | None = None
) -> Instruction:
    core = current()

    def check() -> None:
        _check_search(data, dst=dst, vals=vals)
        if dst.dtype not in (uint16, uint32):
            raise HardwareLimit(f"`dst` is {dst.dtype}; use uint16 or uint32")

    def execute() -> None:
        source, wanted = values.rows(core.load(data)), values.rows(core.load(vals))
        result = np.full(wanted.shape, -1, np.int64)
        for lane in range(source.shape[0]):
            used: dict[float, int] = {}
            for slot, value in enumerate(wanted[lane]):
                hits = np.flatnonzero(source[lane] == value)
                at = used.get(float(value), 0)  # equal values take successive positions
                used[float(value)] = at + 1
                if at < len(hits):
                    result[lane, slot] = hits[at]
        core.store(dst, result.astype(core.raw(dst).dtype), _row_taint(core, data, vals), raw=True)

    return core.issue("nc_find_index8", "vector", writes={"dst": dst},
                      reads={"data": data, "vals": vals}, execute=execute, check=check,
                      name=name)  # fmt: skip


def _row_taint(core: Any, *tensors: NkiTensor) -> np.ndarray | None:
    marks = [values.any_in_row(values.join(core, t)) for t in tensors]
    found = [m for m in marks if m is not None]
    return np.logical_or.reduce(found) if found else None


def nc_match_replace8(
    dst: NkiTensor, data: NkiTensor, vals: NkiTensor, imm: float,
    dst_idx: NkiTensor | None = None, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()

    def check() -> None:
        _check_search(data, vals=vals)
        checks.same_elements(data=data, dst=dst)
        if dst_idx is not None:
            _check_search(data, dst_idx=dst_idx)

    def execute() -> None:
        source, wanted = values.rows(core.load(data)), values.rows(core.load(vals))
        result, index = source.copy(), np.full(wanted.shape, -1, np.int64)
        for lane in range(source.shape[0]):
            free = np.ones(source.shape[1], bool)
            for slot in range(_EIGHT - 1, -1, -1):  # duplicates are served from the last slot on
                hits = np.flatnonzero((source[lane] == wanted[lane, slot]) & free)
                if len(hits):
                    free[hits[0]] = False
                    result[lane, hits[0]], index[lane, slot] = imm, hits[0]
        taint = _row_taint(core, data, vals)
        core.store(dst, result, taint)
        if dst_idx is not None:
            core.store(dst_idx, index.astype(core.raw(dst_idx).dtype), taint, raw=True)

    return core.issue("nc_match_replace8", "vector",
                      writes=values.tensors(dst=dst, dst_idx=dst_idx),
                      reads={"data": data, "vals": vals}, execute=execute, check=check,
                      params={"imm": imm}, name=name)  # fmt: skip

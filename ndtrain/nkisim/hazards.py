"""Races between the two cores of an LNC2 kernel on HBM that both see.

Nothing orders the cores but a core_barrier, for the tensor that it names, and a collective, for its
own tensors. A byte that one core writes and the other touches between two of them is a race,
whichever access came first in the simulation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ndtrain.nkisim.errors import HardwareLimit, RaceError
from ndtrain.nkisim.machine import Core
from ndtrain.nkisim.memory import Storage, Window
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction

_READ, _WRITE = 1, 2
_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@dataclass
class _Marks:
    """Per byte of a storage and core: 1 read, 2 written since the last synchronisation."""

    by_core: list[np.ndarray]
    last: list[str]


def ordered(tensor: NkiTensor) -> None:
    """Both cores synchronised on the memory of `tensor`."""
    assert tensor.storage is not None
    tensor.storage.hazards = None


def note(
    core: Core, instruction: Instruction, writes: dict[str, NkiTensor],
    reads: dict[str, NkiTensor],
) -> None:  # fmt: skip
    """Record the accesses of an instruction to shared memory and refuse a conflict."""
    if instruction.opcode == "core_barrier":
        return
    for tensors, kind in ((reads, _READ), (writes, _WRITE)):
        for role, tensor in tensors.items():
            if tensor.space == "shared_hbm":
                _access(core, instruction, role, tensor, kind)


def _windows(core: Core, tensor: NkiTensor) -> list[Window]:
    """What the access touches: its run-time indices are resolved where they are known."""
    found = tensor.indirection
    whole = ((tensor.row_elements,), (1,), 0)
    if found is None:
        return [tensor.window]
    if not found.vector:
        try:
            return [core.resolve(tensor).window]
        except HardwareLimit:
            return [whole]
    if not core.arithmetic or not isinstance(found.index, NkiTensor):
        return [whole]
    rows = core.raw(found.index).T.reshape(-1)[: tensor.shape[0]].astype(np.int64)
    shape, strides, offset = tensor.window
    return [
        (shape[1:], strides[1:], offset + int(row) * found.stride)
        for row in rows
        if 0 <= row < found.limit
    ]


def _access(core: Core, instruction: Instruction, role: str, tensor: NkiTensor, kind: int) -> None:
    storage = tensor.storage
    assert storage is not None
    marks, mine = _marks(storage), core.index
    conflict = _broadcast(_WRITE if kind == _READ else _READ | _WRITE, tensor)
    for window in _windows(core, tensor):
        if (_view(marks.by_core[1 - mine], window, tensor) & conflict).any():
            verb = "reads" if kind == _READ else "writes"
            raise RaceError(
                f"core {mine} {verb} `{role}` (`{tensor.name}`) while core {1 - mine} accesses "
                f"the same bytes: {marks.last[1 - mine]}",
                help=f"put nisa.core_barrier(data={tensor.name}, cores=(0, 1)) between the two",
            )
        _view(marks.by_core[mine], window, tensor)[...] |= _broadcast(kind, tensor)
    marks.last[mine] = f"{instruction.opcode} at {instruction.where}"


def _marks(storage: Storage) -> _Marks:
    found = storage.hazards
    if not isinstance(found, _Marks):
        found = _Marks([np.zeros(storage.row_bytes, np.uint8) for _ in range(2)], ["", ""])
        storage.hazards = found
    return found


def _view(marks: np.ndarray, window: Window, tensor: NkiTensor) -> np.ndarray:
    shape, strides, offset = window
    size = tensor.dtype.itemsize
    return np.ndarray(shape, _UINT[size], marks, offset * size, tuple(s * size for s in strides))


def _broadcast(bits: int, tensor: NkiTensor) -> int:
    """`bits` in every byte of an element."""
    return int.from_bytes(bytes([bits]) * tensor.dtype.itemsize, "little")

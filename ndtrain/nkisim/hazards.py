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
from ndtrain.nkisim.memory import Storage
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
                _access(core.index, instruction, role, _resolved(core, tensor), kind)


def _resolved(core: Core, tensor: NkiTensor) -> NkiTensor:
    """The view with a scalar index applied; one that is out of bounds touches nothing special."""
    try:
        return core.resolve(tensor)
    except HardwareLimit:
        return tensor


def _access(core: int, instruction: Instruction, role: str, tensor: NkiTensor, kind: int) -> None:
    storage = tensor.storage
    assert storage is not None
    marks = _marks(storage)
    window = tensor.window
    if tensor.indirection is not None:
        window = ((tensor.row_elements,), (1,), 0)  # the rows are not known here: all of it
    other = _view(marks.by_core[1 - core], window, tensor)
    conflict = _WRITE if kind == _READ else _READ | _WRITE
    if (other & _broadcast(conflict, tensor)).any():
        verb = "reads" if kind == _READ else "writes"
        raise RaceError(
            f"core {core} {verb} `{role}` (`{tensor.name}`) while core {1 - core} accesses the "
            f"same bytes: {marks.last[1 - core]}",
            help=f"put nisa.core_barrier(data={tensor.name}, cores=(0, 1)) between the two",
        )
    _view(marks.by_core[core], window, tensor)[...] |= _broadcast(kind, tensor)
    marks.last[core] = f"{instruction.opcode} at {instruction.where}"


def _marks(storage: Storage) -> _Marks:
    found = storage.hazards
    if not isinstance(found, _Marks):
        found = _Marks([np.zeros(storage.row_bytes, np.uint8) for _ in range(2)], ["", ""])
        storage.hazards = found
    return found


def _view(marks: np.ndarray, window: tuple, tensor: NkiTensor) -> np.ndarray:
    shape, strides, offset = window
    size = tensor.dtype.itemsize
    return np.ndarray(shape, _UINT[size], marks, offset * size, tuple(s * size for s in strides))


def _broadcast(bits: int, tensor: NkiTensor) -> int:
    """`bits` in every byte of an element."""
    return int.from_bytes(bytes([bits]) * tensor.dtype.itemsize, "little")

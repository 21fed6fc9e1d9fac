"""Shapes and taint of operands inside one instruction."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim.machine import Core, Taint
from ndtrain.nkisim.tensor import NkiTensor

Scalar = Any
"""A Python number or a (partitions, 1) tensor."""


def rows(values: np.ndarray) -> np.ndarray:
    """(partitions, elements): the free dimensions flattened in order."""
    return values.reshape(values.shape[0], -1) if values.ndim != 2 else values


def broadcast(core: Core, value: Scalar) -> Any:
    """A scalar operand as float32: a number or a (partitions, 1) column."""
    if isinstance(value, NkiTensor):
        return core.load(value).reshape(value.shape[0], 1)
    return np.float32(value)


def join(core: Core, *operands: Any) -> Taint:
    """Element-wise union of the taint of tensors and (partitions, 1) columns; rows() shaped."""
    total: Taint = None
    for operand in operands:
        if not isinstance(operand, NkiTensor):
            continue
        taint = core.taint(operand)
        if taint is None:
            continue
        taint = rows(taint)
        total = taint if total is None else total | taint
    return total


def any_in_row(taint: Taint) -> Taint:
    """The taint of a reduction over the free dimensions, (partitions, 1)."""
    return None if taint is None else np.asarray(rows(taint).any(axis=1, keepdims=True))


def tensors(**operands: Any) -> dict[str, NkiTensor]:
    """The operands that are tensors."""
    return {role: t for role, t in operands.items() if isinstance(t, NkiTensor)}

"""Enumerations of `nki.isa`."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any

from ndtrain.nkisim.errors import ApiError


class engine(Enum):
    """The engines of a NeuronCore."""

    unknown = 0
    tensor = 1
    scalar = 2
    gpsimd = 3
    dma = 4
    vector = 5
    sync = 6


class reduce_cmd(Enum):
    """What an instruction does with the accumulator registers of its engine."""

    idle = 0
    reset = 1
    reduce = 2
    reset_reduce = 3
    load_reduce = 4


class dge_mode(Enum):
    """Who generates DMA descriptors."""

    unknown = 0
    swdge = 1
    hwdge = 2
    none = 3


class oob_mode(Enum):
    """What an out-of-bounds run-time index does."""

    error = 0
    skip = 1


class matmul_perf_mode(Enum):
    """Matmul performance modes."""

    none = "none"
    double_row = "double_row"


class nc_version(IntEnum):
    """NeuronCore generations; ordered, since kernels compare them."""

    gen2 = 2
    gen3 = 3
    gen4 = 4


class dma_engine(Enum):
    """Which DMA moves a sendrecv."""

    dma = 1
    gpsimd_dma = 2


tensor_engine = engine.tensor
vector_engine = engine.vector
scalar_engine = engine.scalar
gpsimd_engine = engine.gpsimd
unknown_engine = engine.unknown


def require(kind: type[Enum], **values: Any) -> None:
    """Refuse an integer or a string in place of an enumeration member (an error since NKI 0.3)."""
    for role, value in values.items():
        if not isinstance(value, kind):
            names = ", ".join(f"nisa.{kind.__name__}.{m.name}" for m in kind)
            raise ApiError(f"`{role}` is {value!r}", help=f"use one of {names}")

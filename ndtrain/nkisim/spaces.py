"""The memory regions of the NKI language."""

from enum import Enum


class MemoryRegion(Enum):
    """Where a tensor lives."""

    sbuf = "sbuf"
    psum = "psum"
    private_hbm = "private_hbm"
    shared_hbm = "shared_hbm"


sbuf = MemoryRegion.sbuf
psum = MemoryRegion.psum
private_hbm = MemoryRegion.private_hbm
shared_hbm = MemoryRegion.shared_hbm
hbm = MemoryRegion.private_hbm


def is_hbm(buffer: MemoryRegion) -> bool:
    return buffer in (private_hbm, shared_hbm)


def is_on_chip(buffer: MemoryRegion) -> bool:
    return buffer in (sbuf, psum)


def is_psum(buffer: MemoryRegion) -> bool:
    return buffer is psum


def is_sbuf(buffer: MemoryRegion) -> bool:
    return buffer is sbuf

"""Refusals that hold for every instruction and every allocation.

Each names the operand and the limit; `Core.issue` adds the instruction and the kernel's line.
Limits: trainium_inferentia2_arch.rst, trainium2_arch.rst, trainium3_arch.rst and the docstrings of
nki.isa 0.6 in the Neuron SDK.
"""

from __future__ import annotations

import math

from ndtrain.nkisim.dtypes import DType
from ndtrain.nkisim.errors import CapacityError, HardwareLimit
from ndtrain.nkisim.memory import ON_CHIP
from ndtrain.nkisim.target import (
    MAX_VIEW_DIMS,
    MIN_ALIGN_BYTES,
    NUM_PARTITIONS,
    PSUM_BANK_BYTES,
    PSUM_BYTES,
    QUADRANT,
    Target,
)
from ndtrain.nkisim.tensor import NkiTensor

MEMORY_ENGINES = ("dma", "cc")
"""They move whole rows of memory and know no lanes; PSUM is out of their reach."""
_HALF = 2 * QUADRANT


def allocation(
    target: Target,
    shape: tuple[int, ...],
    dtype: DType,
    space: str,
    address: tuple[int, int] | None,
) -> None:
    """Refuse an `nl.ndarray` that no core of this generation can hold."""
    if not shape or any(not isinstance(s, int) or s < 1 for s in shape):
        raise HardwareLimit(f"shape {shape} needs positive integers")
    if len(shape) > MAX_VIEW_DIMS:
        raise HardwareLimit(f"{len(shape)} dimensions; the limit is {MAX_VIEW_DIMS}")
    dtype_supported(target, dtype, "the tensor")
    if space not in ON_CHIP:
        if address is not None:
            raise HardwareLimit("an HBM tensor takes no address")
        return
    if shape[0] > NUM_PARTITIONS:
        raise HardwareLimit(
            f"partition dimension {shape[0]}; {space.upper()} has {NUM_PARTITIONS} partitions",
            help="put the partition dimension first and tile it",
        )
    capacity = PSUM_BYTES if space == "psum" else target.sbuf_bytes
    row = math.prod(shape[1:]) * dtype.itemsize
    if row > capacity:
        raise CapacityError(
            f"{row} bytes per partition; {space.upper()} has {capacity} on {target.name}"
        )
    if address is not None:
        _address(space, capacity, shape[0], row, address)


def _address(space: str, capacity: int, partitions: int, row: int, at: tuple[int, int]) -> None:
    start, byte = at
    if not 0 <= start <= NUM_PARTITIONS - partitions:
        raise HardwareLimit(f"partitions {start}..{start + partitions} of {NUM_PARTITIONS}")
    if byte < 0 or byte + row > capacity:
        raise CapacityError(
            f"address {at} with {row} bytes per partition ends at {byte + row}; "
            f"{space.upper()} has {capacity}"
        )
    if byte % MIN_ALIGN_BYTES:
        raise HardwareLimit(f"byte address {byte} is no multiple of {MIN_ALIGN_BYTES}")
    if space == "psum" and byte % PSUM_BANK_BYTES:
        raise HardwareLimit(
            f"PSUM byte address {byte} is not the start of a bank",
            help=f"use a multiple of {PSUM_BANK_BYTES}",
        )


def dtype_supported(target: Target, dtype: DType, what: str) -> None:
    if dtype.min_generation > target.generation:
        raise HardwareLimit(
            f"{what} is {dtype}, which {target.name} does not have",
            help=f"{dtype} exists from gen{dtype.min_generation} on",
        )


def operands(
    target: Target,
    opcode: str,
    engine: str,
    writes: dict[str, NkiTensor],
    reads: dict[str, NkiTensor],
) -> None:
    """Refuse operands that `engine` cannot reach."""
    for role, tensor in (*writes.items(), *reads.items()):
        if engine in MEMORY_ENGINES:
            if tensor.space == "psum":
                raise HardwareLimit(f"`{role}` is in PSUM, which DMA does not access")
            continue
        if engine == "sync":
            continue
        _on_engine(role, tensor, engine)


def _on_engine(role: str, tensor: NkiTensor, engine: str) -> None:
    if not tensor.on_chip:
        raise HardwareLimit(
            f"`{role}` is in {tensor.space}; engines read and write SBUF and PSUM",
            help="copy it to SBUF with nisa.dma_copy first",
        )
    if engine == "gpsimd" and tensor.space == "psum":
        raise HardwareLimit(f"`{role}` is in PSUM, which GpSimd cannot access")
    # Views of HBM alone have an index for each partition, and no view leaves its tensor.
    assert tensor.indirection is None or not tensor.indirection.vector
    partitions = tensor.shape[0]
    start = tensor.start_partition
    assert 0 <= start <= NUM_PARTITIONS - partitions
    if start % allowed_start(partitions):
        raise HardwareLimit(
            f"`{role}` starts at partition {start} with {partitions} partitions",
            help="up to 32 partitions start at 0, 32, 64 or 96; up to 64 at 0 or 64; more at 0",
        )
    if partitions > 1 and tensor.strides[0] != tensor.row_elements:
        raise HardwareLimit(
            f"`{role}` has a partition step of {tensor.strides[0] // tensor.row_elements}",
            help="engines access adjacent partitions",
        )


def allowed_start(partitions: int) -> int:
    """The start partition must be a multiple of this."""
    if partitions <= QUADRANT:
        return QUADRANT
    return _HALF if partitions <= _HALF else NUM_PARTITIONS


def same_partitions(**tensors: NkiTensor) -> None:
    """Refuse operands with different partition counts."""
    (first, reference), *rest = tensors.items()
    for role, tensor in rest:
        if tensor.shape[0] != reference.shape[0]:
            raise HardwareLimit(
                f"`{role}` has {tensor.shape[0]} partitions, `{first}` has {reference.shape[0]}"
            )


def same_elements(**tensors: NkiTensor) -> None:
    """Refuse operands that differ in partitions or in elements per partition."""
    same_partitions(**tensors)
    (first, reference), *rest = tensors.items()
    for role, tensor in rest:
        if tensor.free_size != reference.free_size:
            raise HardwareLimit(
                f"`{role}` has {tensor.free_size} elements per partition, `{first}` has "
                f"{reference.free_size}",
                help="free dimensions do not broadcast, except (partitions, 1) scalar operands",
            )


def not_both_psum(**tensors: NkiTensor) -> None:
    """Refuse two inputs in PSUM: it has one read port for an engine."""
    if all(t.space == "psum" for t in tensors.values()):
        names = " and ".join(f"`{n}`" for n in tensors)
        raise HardwareLimit(f"{names} are both in PSUM; one has to be in SBUF")


def in_space(role: str, tensor: NkiTensor, *allowed: str) -> None:
    """Refuse a tensor outside the memories in `allowed`."""
    if tensor.space not in allowed:
        wanted = " or ".join(a.upper() for a in allowed)
        raise HardwareLimit(f"`{role}` is in {tensor.space.upper()} and must be in {wanted}")


def scalar_operand(role: str, tensor: NkiTensor, data: NkiTensor) -> None:
    """Refuse a broadcast operand that is not one element for each partition of `data`."""
    if tensor.shape[0] != data.shape[0] or tensor.free_size != 1:
        raise HardwareLimit(
            f"`{role}` has shape {list(tensor.shape)} and must be [{data.shape[0]}, 1]"
        )


def generation(target: Target, least: int, what: str) -> None:
    """Refuse what an older generation lacks."""
    if target.generation < least:
        raise HardwareLimit(f"{what} needs gen{least} or later; this is {target.name}")

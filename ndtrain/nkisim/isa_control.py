"""Registers, queries of the target, and barriers between the two cores of an LNC2 kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim import checks
from ndtrain.nkisim.enums import dma_engine as DmaEngine
from ndtrain.nkisim.enums import engine as Engine
from ndtrain.nkisim.enums import nc_version, require
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.machine import current, current_target
from ndtrain.nkisim.registers import VirtualRegister, value_of
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction

_SWAP_BYTES = {4: 1024, 2: 512, 1: 256}
"""gpsimd_dma: bytes per partition that one sendrecv may move, by element size."""


def get_nc_version() -> nc_version:
    return nc_version(current_target().generation)


def get_nc_sub_version() -> int:
    return 0


def register_alloc(x: int | None = None) -> VirtualRegister:
    register = VirtualRegister()
    if isinstance(x, NkiTensor):
        register_load(register, x)
    elif x is not None:
        register.write(value_of(x))
    return register


def register_move(dst: VirtualRegister, src: Any) -> None:
    dst.write(value_of(src))


def register_load(dst: VirtualRegister, src: NkiTensor) -> Instruction:
    core = current()

    def check() -> None:
        if src.size != 1:
            raise HardwareLimit(f"`src` has shape {list(src.shape)}; a register holds one element")
        checks.in_space("src", src, "sbuf", "private_hbm", "shared_hbm")
        if not core.arithmetic:
            raise HardwareLimit("a register is loaded from memory while arithmetic is off")

    def execute() -> None:
        if core.taint(src) is not None:
            raise HardwareLimit("a register is loaded from memory that nothing wrote")
        dst.write(int(core.raw(src).reshape(-1)[0]))

    return core.issue(
        "register_load", "sync", writes={}, reads={"src": src}, execute=execute, check=check
    )


def register_store(dst: NkiTensor, src: VirtualRegister) -> Instruction:
    core = current()

    def execute() -> None:
        core.store(dst, np.full(dst.shape, value_of(src), np.int64))

    def check() -> None:
        if dst.size != 1:
            raise HardwareLimit(f"`dst` has shape {list(dst.shape)}; a register holds one element")

    return core.issue(
        "register_store", "sync", writes={"dst": dst}, reads={}, execute=execute, check=check
    )


def core_barrier(
    data: NkiTensor, cores: tuple[int, ...], engine: Engine = Engine.gpsimd,
    name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    require(Engine, engine=engine)

    def check() -> None:
        checks.generation(core.target, 3, "core_barrier")
        checks.in_space("data", data, "shared_hbm")
        if tuple(sorted(cores)) != (0, 1):
            raise HardwareLimit(f"`cores` {tuple(cores)}: only (0, 1) is supported")
        if core.program.num_cores != 2:
            raise HardwareLimit("core_barrier needs two cores", help="launch with kernel[2](...)")

    return core.issue(
        "core_barrier", "sync", writes={}, reads={"data": data}, check=check,
        execute=lambda: core.program.barrier(core, data), meets=True,
        params={"on": engine.name}, name=name,
    )  # fmt: skip


def sendrecv(
    src: NkiTensor, dst: NkiTensor, send_to_rank: Any, recv_from_rank: Any, pipe_id: int,
    dma_engine: DmaEngine = DmaEngine.dma, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    require(DmaEngine, dma_engine=dma_engine)
    target, source = value_of(send_to_rank), value_of(recv_from_rank)

    def check() -> None:
        checks.generation(core.target, 3, "sendrecv")
        checks.in_space("src", src, "sbuf")
        checks.in_space("dst", dst, "sbuf")
        if src.shape != dst.shape or src.dtype != dst.dtype:
            raise HardwareLimit(f"`src` {src} and `dst` {dst} differ in shape or type")
        if core.program.num_cores != 2 or {target, source} - {0, 1}:
            raise HardwareLimit(f"ranks {target}, {source}: sendrecv joins cores 0 and 1 of LNC2")
        if dma_engine is DmaEngine.gpsimd_dma:
            limit = _SWAP_BYTES[src.dtype.itemsize]
            row = src.free_size * src.dtype.itemsize
            if row > limit:
                raise HardwareLimit(
                    f"`src` has {row} bytes per partition; gpsimd_dma moves up to {limit} of "
                    f"{src.dtype}"
                )

    return core.issue(
        "sendrecv", "dma", writes={"dst": dst}, reads={"src": src}, check=check,
        execute=lambda: core.program.sendrecv(core, src, dst, target, source, pipe_id), meets=True,
        params={"send_to": target, "recv_from": source, "pipe_id": pipe_id,
                "dma_engine": dma_engine.name},
        name=name,
    )  # fmt: skip


def nc_stream_shuffle(
    dst: NkiTensor, src: NkiTensor, shuffle_mask: Any, name: str | None = None
) -> Instruction:
    core = current()
    mask = [value_of(m) for m in shuffle_mask]

    def check() -> None:
        if len(mask) != 32 or any(m != 255 and not 0 <= m < 32 for m in mask):
            raise HardwareLimit("`shuffle_mask` has 32 entries of 0 to 31, or 255")
        if dst.dtype != src.dtype or dst.free_size != src.free_size:
            raise HardwareLimit(f"`src` {src} and `dst` {dst} differ in shape or type")
        active = -(-max(src.shape[0], dst.shape[0]) // 32) * 32
        for role, tensor in (("src", src), ("dst", dst)):
            step = checks.allowed_start(active)
            if tensor.start_partition % step:
                raise HardwareLimit(
                    f"`{role}` starts at partition {tensor.start_partition}; a shuffle of {active} "
                    f"starts at a multiple of {step}"
                )

    def execute() -> None:
        source, taint = core.raw(src), core.taint(src)
        result, old = core.raw(dst).copy(), core.taint(dst)
        flat = source.reshape(source.shape[0], *result.shape[1:])
        marks = np.zeros(flat.shape, bool) if taint is None else taint.reshape(flat.shape)
        kept = np.zeros(result.shape, bool) if old is None else old.copy()
        for lane in range(result.shape[0]):
            chosen = mask[lane % 32]
            row = lane // 32 * 32 + chosen
            if chosen != 255 and row < flat.shape[0]:
                result[lane], kept[lane] = flat[row], marks[row]
        core.store(dst, result, kept if kept.any() else None, raw=True)

    return core.issue(
        "nc_stream_shuffle", "vector", writes={"dst": dst}, reads={"src": src}, execute=execute,
        check=check, name=name,
    )  # fmt: skip

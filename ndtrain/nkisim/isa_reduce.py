"""Reductions and scans of VectorE and GpSimd, and VectorE's accumulator registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim import checks, ops, values
from ndtrain.nkisim.enums import reduce_cmd as Cmd
from ndtrain.nkisim.enums import require
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.isa_elementwise import binary, check_scalar, compute, operator
from ndtrain.nkisim.machine import Core, Taint, current
from ndtrain.nkisim.ops import Op
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction


def _reducer(op: Any, role: str, *allowed: Op) -> Op:
    token = operator(op, role)
    if token.identity is None or (allowed and token not in allowed):
        names = ", ".join(repr(a) for a in allowed) or "add, multiply, maximum, minimum, ..."
        raise HardwareLimit(f"`{role}` = {token} is not a reduction here", help=f"use {names}")
    return token


def tensor_reduce(
    dst: NkiTensor, op: Any, data: NkiTensor, axis: Any, negate: bool = False,
    keepdims: bool = False, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    axes = tuple(sorted(a % data.ndim for a in ((axis,) if isinstance(axis, int) else axis)))
    token = _reducer(op, "op")

    def check() -> None:
        expected = tuple(range(data.ndim - len(axes), data.ndim))
        if axes != expected or 0 in axes:
            raise HardwareLimit(
                f"`axis` {axis}: reduced axes are the last ones, and never the partition",
                help=f"for {data.ndim} dimensions use one of the trailing axes, e.g. {expected}",
            )
        kept = int(np.prod(data.shape[1 : data.ndim - len(axes)], dtype=int))
        checks.same_partitions(data=data, dst=dst)
        if dst.free_size != kept:
            raise HardwareLimit(f"`dst` has {dst.free_size} elements per partition, not {kept}")
        if token.kind == "bitvec" and not (data.dtype.is_integer and dst.dtype.is_integer):
            raise HardwareLimit(
                f"`data` is {data.dtype}, `dst` is {dst.dtype}; {token} reduces integer types"
            )
        if token.kind == "bitvec" and negate:
            raise HardwareLimit("`negate` works with arithmetic operators only")

    def execute() -> None:
        taint = core.taint(data)
        folded = None if taint is None else np.asarray(taint.any(axis=axes))
        source = core.raw(data) if token.kind == "bitvec" else core.load(data)
        result = _fold(token, source, axes)
        core.store(dst, -result if negate else result, folded)

    return core.issue(
        "tensor_reduce", "vector", writes={"dst": dst}, reads={"data": data}, execute=execute,
        check=check, params={"op": token, "axis": axes, "negate": negate}, name=name,
    )  # fmt: skip


def _fold(op: Op, source: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    if op is ops.subtract:
        # The engine subtracts each element from the running value, which starts at 0.
        return -np.add.reduce(source, axis=axes)
    assert op.ufunc is not None
    result = op.ufunc.reduce(source, axis=axes)
    return result if op.kind == "bitvec" else result.astype(np.float32)


def tensor_partition_reduce(
    dst: NkiTensor, op: Any, data: NkiTensor, name: str | None = None
) -> Instruction:
    core = current()
    token = _reducer(op, "op", ops.add, ops.average, ops.maximum, ops.bitwise_or, ops.bitwise_and)

    def check() -> None:
        if dst.shape[0] != 1 or dst.free_size != data.free_size:
            raise HardwareLimit(f"`dst` has shape {list(dst.shape)}, not [1, {data.free_size}]")

    def execute() -> None:
        taint = core.taint(data)
        folded = None if taint is None else np.asarray(values.rows(taint).any(axis=0))[None]
        source = values.rows(core.raw(data) if token.kind == "bitvec" else core.load(data))
        assert token.ufunc is not None
        result = token.ufunc.reduce(source, axis=0, keepdims=True)
        if token is ops.average:
            result = result / np.float32(data.shape[0])
        core.store(dst, result, folded)

    return core.issue(
        "tensor_partition_reduce", "gpsimd", writes={"dst": dst}, reads={"data": data},
        execute=execute, check=check, params={"op": token}, name=name,
    )  # fmt: skip


def accumulate(
    core: Core, data: NkiTensor, op: Op, cmd: Cmd, partial: np.ndarray, taint: Taint, init: Any
) -> None:
    """Update VectorE's registers with one value per partition, as `cmd` says."""
    lanes = slice(0, data.shape[0])
    registers = core.vector_accumulator[lanes]
    if cmd is Cmd.idle:
        # The registers may be clobbered: poison them, so that a later `reduce` shows.
        core.vector_taint[lanes] = True
        return
    if cmd in (Cmd.reset, Cmd.reset_reduce):
        registers[:] = op.identity
        core.vector_taint[lanes] = False
    elif cmd is Cmd.load_reduce:
        registers[:] = np.reshape(values.broadcast(core, init), -1)
        core.vector_taint[lanes] = values.join(core, init) is not None
    if cmd is not Cmd.reset:
        registers[:] = op.fn(registers, partial)
        if taint is not None:
            core.vector_taint[lanes] |= taint.reshape(-1)


def read_registers(core: Core, reduce_res: NkiTensor, negate: bool = False) -> None:
    """Write VectorE's registers to `reduce_res`, one element per partition."""
    lanes = slice(0, reduce_res.shape[0])
    result = core.vector_accumulator[lanes, None]
    taint = core.vector_taint[lanes, None]
    core.store(reduce_res, -result if negate else result.copy(), taint if taint.any() else None)


def check_result(reduce_res: NkiTensor | None, data: NkiTensor) -> None:
    if reduce_res is not None:
        checks.scalar_operand("reduce_res", reduce_res, data)


def tensor_scalar_reduce(
    dst: NkiTensor, data: NkiTensor, op0: Any, operand0: Any, reduce_op: Any,
    reduce_res: NkiTensor | None = None, reverse0: bool = False,
    reduce_cmd: Cmd = Cmd.reset_reduce, reduce_init: Any = None,
    reduce_res_negate: bool = False, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    require(Cmd, reduce_cmd=reduce_cmd)
    first = operator(op0, "op0")
    folder = _reducer(reduce_op, "reduce_op", ops.add, ops.multiply, ops.maximum, ops.minimum)

    def check() -> None:
        checks.same_elements(data=data, dst=dst)
        binary(core, first, "op0")
        if first.kind == "bitvec":
            raise HardwareLimit(f"`op0` = {first} is a bitvec operator; use an arithmetic one")
        if reverse0:
            raise HardwareLimit("`reverse0` is not supported by tensor_scalar_reduce")
        check_scalar("operand0", operand0, data, first)
        check_result(reduce_res, data)
        if (reduce_cmd is Cmd.load_reduce) != (reduce_init is not None):
            raise HardwareLimit("`reduce_init` goes with reduce_cmd.load_reduce, and only with it")
        if reduce_cmd not in (Cmd.reset_reduce, Cmd.reduce, Cmd.load_reduce):
            raise HardwareLimit(f"reduce_cmd.{reduce_cmd.name} is not supported here")

    def execute() -> None:
        taint = values.join(core, data, operand0)
        result = compute(
            first, values.rows(core.load(data)), values.broadcast(core, operand0), reverse0
        )
        assert folder.ufunc is not None
        partial = folder.ufunc.reduce(result, axis=1)
        accumulate(core, data, folder, reduce_cmd, partial, values.any_in_row(taint), reduce_init)
        core.store(dst, result, taint)
        if reduce_res is not None:
            read_registers(core, reduce_res, reduce_res_negate)

    return core.issue(
        "tensor_scalar_reduce", "vector",
        writes=values.tensors(dst=dst, reduce_res=reduce_res),
        reads=values.tensors(data=data, operand0=operand0, reduce_init=reduce_init),
        execute=execute, check=check,
        params={"op0": first, "reduce_op": folder, "reduce_cmd": reduce_cmd.name}, name=name,
    )  # fmt: skip


def tensor_scalar_cumulative(
    dst: NkiTensor, src: NkiTensor, op0: Any, op1: Any, imm0: Any, imm1: Any = None,
    reduce_cmd: Cmd = Cmd.reset_reduce, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    require(Cmd, reduce_cmd=reduce_cmd)
    first = operator(op0, "op0")
    folder = _reducer(op1, "op1", ops.add, ops.subtract, ops.multiply, ops.maximum, ops.minimum)

    def check() -> None:
        checks.same_elements(src=src, dst=dst)
        if first.kind != "arith":
            raise HardwareLimit(f"`op0` = {first} must be an arithmetic operator")
        for role, tensor in (("src", src), ("dst", dst)):
            if tensor.dtype.is_integer and tensor.dtype.itemsize == 4:
                raise HardwareLimit(f"`{role}` is {tensor.dtype}, which it does not support")
        if reduce_cmd not in (Cmd.reset_reduce, Cmd.reduce, Cmd.load_reduce):
            raise HardwareLimit(f"reduce_cmd.{reduce_cmd.name} is not supported here")
        if reduce_cmd is Cmd.load_reduce and imm1 is None:
            raise HardwareLimit("reduce_cmd.load_reduce needs `imm1`")
        check_scalar("imm0", imm0, src, first)

    def execute() -> None:
        taint = values.join(core, src, imm0)
        steps = first.fn(values.rows(core.load(src)), values.broadcast(core, imm0))
        none = np.full(src.shape[0], folder.identity, np.float32)
        start = Cmd.load_reduce if reduce_cmd is Cmd.load_reduce else reduce_cmd
        accumulate(core, src, ops.add if folder is ops.subtract else folder, start,
                   none, None, imm1)  # fmt: skip
        registers = core.vector_accumulator[: src.shape[0]]
        result = np.empty_like(steps)
        for i in range(steps.shape[1]):
            registers[:] = folder.fn(steps[:, i], registers)
            result[:, i] = registers
        core.store(dst, result, None if taint is None else np.logical_or.accumulate(taint, axis=1))

    return core.issue(
        "tensor_scalar_cumulative", "vector", writes={"dst": dst},
        reads=values.tensors(src=src, imm0=imm0, imm1=imm1), execute=execute, check=check,
        params={"op0": first, "op1": folder}, name=name,
    )  # fmt: skip


def tensor_tensor_scan(
    dst: NkiTensor, data0: NkiTensor, data1: NkiTensor, initial: Any, op0: Any, op1: Any,
    reverse0: bool = False, reverse1: bool = False, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    first, second = operator(op0, "op0"), operator(op1, "op1")

    def check() -> None:
        checks.same_elements(data0=data0, data1=data1, dst=dst)
        checks.not_both_psum(data0=data0, data1=data1)
        for role, op in (("op0", first), ("op1", second)):
            if op.kind != "arith":
                raise HardwareLimit(f"`{role}` = {op} must be a binary arithmetic operator")
        if isinstance(initial, NkiTensor):
            checks.scalar_operand("initial", initial, data0)

    def execute() -> None:
        taint = values.join(core, data0, data1)
        begun = values.join(core, initial)
        left, right = values.rows(core.load(data0)), values.rows(core.load(data1))
        state = np.broadcast_to(values.broadcast(core, initial), (left.shape[0], 1))[:, 0]
        result = np.empty(left.shape, np.float32)
        for i in range(left.shape[1]):
            state = compute(first, left[:, i], state, reverse0)
            state = compute(second, state, right[:, i], reverse1)
            result[:, i] = state
        if taint is not None:
            taint = np.logical_or.accumulate(taint, axis=1)
        core.store(dst, result, taint if begun is None else np.ones(result.shape, bool))

    return core.issue(
        "tensor_tensor_scan", "vector", writes={"dst": dst},
        reads=values.tensors(data0=data0, data1=data1, initial=initial),
        execute=execute, check=check, params={"op0": first, "op1": second}, name=name,
    )  # fmt: skip


__all__ = [
    "accumulate",
    "check_result",
    "read_registers",
    "tensor_partition_reduce",
    "tensor_reduce",
    "tensor_scalar_cumulative",
    "tensor_scalar_reduce",
    "tensor_tensor_scan",
]

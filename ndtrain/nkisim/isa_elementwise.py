"""Element-wise instructions: copies, tensor_tensor, tensor_scalar and their combinations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ndtrain.nkisim import checks, enums, ops, values
from ndtrain.nkisim.dtypes import DType, float32, host_dtype, int32, uint32
from ndtrain.nkisim.enums import engine as Engine
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.machine import Core, current
from ndtrain.nkisim.ops import Op
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction

_WIDE_INT = (int32, uint32)


def pick(engine: Engine, default: str, *allowed: str) -> str:
    """The engine that runs it: the one asked for, or `default`."""
    enums.require(Engine, engine=engine)
    if engine is Engine.unknown:
        return default
    if engine.name not in allowed:
        raise HardwareLimit(
            f"engine.{engine.name} does not run it", help="it runs on " + ", ".join(allowed)
        )
    return engine.name


def memset(
    dst: NkiTensor, value: Any, engine: Engine = Engine.unknown, name: str | None = None
) -> Instruction:
    core = current()
    chosen = pick(engine, "vector", "vector", "gpsimd")

    def check() -> None:
        if isinstance(value, NkiTensor) or not isinstance(value, (int, float, np.number)):
            raise HardwareLimit("`value` is a compile-time number")
        if dst.dtype.kind == "x" and value != 0:
            raise HardwareLimit(
                f"`value` is {value}; `dst` is {dst.dtype}, which can only be set to 0"
            )
        whole = isinstance(value, (int, np.integer))
        if dst.dtype.is_integer and not whole and core.program.api != "0.2":
            raise HardwareLimit(f"`value` {value!r} is no integer, `dst` is {dst.dtype}")

    def execute() -> None:
        wide = np.float64 if dst.dtype.is_integer else np.float32
        core.store(dst, np.full(dst.shape, value, wide))

    return core.issue(
        "memset", chosen, writes={"dst": dst}, reads={}, execute=execute, check=check,
        params={"value": value}, name=name,
    )  # fmt: skip


def tensor_copy(
    dst: NkiTensor, src: NkiTensor, engine: Engine = Engine.unknown, name: str | None = None,
    dtype: Any = None,
) -> Instruction:  # fmt: skip
    """`dtype` is an argument of the beta that kernels of nki-samples still pass, to no effect."""
    core = current()
    chosen = pick(engine, "vector", "vector", "scalar", "gpsimd")

    def check() -> None:
        checks.same_elements(src=src, dst=dst)
        if chosen == "scalar":
            checks.generation(core.target, 3, "tensor_copy on the Scalar Engine")

    def execute() -> None:
        copy(core, dst, src)

    return core.issue(
        "tensor_copy", chosen, writes={"dst": dst}, reads={"src": src}, execute=execute,
        check=check, name=name,
    )  # fmt: skip


def copy(core: Core, dst: NkiTensor, src: NkiTensor) -> None:
    """Bit-exact for equal types, else through float32."""
    taint = core.taint(src)
    if src.dtype == dst.dtype:
        core.store(dst, core.raw(src), taint, raw=True)
    else:
        core.store(dst, core.load(src), taint)


def operator(op: Any, role: str) -> Op:
    """The operator token of an `op` argument; the reductions nl.max and nl.min stand for one."""
    token = getattr(op, "operator", op)
    if not isinstance(token, Op):
        raise HardwareLimit(
            f"`{role}` is {op!r}, which is no NKI operator", help="pass one such as nl.add"
        )
    return token


def binary(core: Core, op: Op, role: str) -> None:
    """Refuse what the ALU of VectorE and GpSimd cannot compute."""
    if op.kind not in ("arith", "bitvec", "unary"):
        raise HardwareLimit(f"`{role}` = {op} is an activation function; it runs on ScalarE")
    checks.generation(core.target, op.min_generation, f"{op}")


def _require_integers(op: Op, **tensors: NkiTensor) -> None:
    for role, tensor in tensors.items():
        if not tensor.dtype.is_integer:
            raise HardwareLimit(f"`{role}` is {tensor.dtype}; {op} works on integer types")


def compute(op: Op, left: Any, right: Any, reverse: bool) -> np.ndarray:
    """`left op right` in the type of the operands, operands swapped when `reverse`."""
    if op.kind == "unary":
        return op.fn(left)
    return op.fn(right, left) if reverse else op.fn(left, right)


def tensor_tensor(
    dst: NkiTensor, data1: NkiTensor, data2: NkiTensor, op: Any,
    engine: Engine = Engine.unknown, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    token = operator(op, "op")
    operands = (dst, data1, data2)
    wide = all(t.dtype in _WIDE_INT for t in operands)
    in_psum = any(t.space == "psum" for t in operands)
    default = "gpsimd" if token is ops.power or (wide and not in_psum) else "vector"
    chosen = pick(engine, default, "vector", "gpsimd")

    def check() -> None:
        binary(core, token, "op")
        checks.same_elements(data1=data1, data2=data2, dst=dst)
        checks.not_both_psum(data1=data1, data2=data2)
        if token is ops.power and chosen != "gpsimd":
            raise HardwareLimit("nl.power runs on the GpSimd Engine only")
        if token.kind == "bitvec":
            _require_integers(token, data1=data1, data2=data2, dst=dst)

    native = token.kind == "bitvec" or (wide and chosen == "gpsimd")

    def execute() -> None:
        taint = values.join(core, data1, data2)
        if native:
            left, right = values.rows(core.raw(data1)), values.rows(core.raw(data2))
            result = token.fn(left, right.astype(left.dtype))
        else:
            left, right = values.rows(core.load(data1)), values.rows(core.load(data2))
            result = token.fn(left, right)
        core.store(dst, result, taint)

    return core.issue(
        "tensor_tensor", chosen, writes={"dst": dst}, reads={"data1": data1, "data2": data2},
        execute=execute, check=check, params={"op": token}, name=name,
    )  # fmt: skip


def _scalar_on_engine(core: Core, chosen: str, op0: Op, op1: Op | None) -> None:
    pair = (op0.name, op1.name if op1 else None)
    if chosen == "scalar":
        checks.generation(core.target, 3, "tensor_scalar on the Scalar Engine")
        allowed = (("multiply", "add"), ("multiply", None), ("add", None))
        if core.target.generation < 4 and pair not in allowed:
            raise HardwareLimit(f"the Scalar Engine does not combine {pair}")
    if chosen == "gpsimd" and op0 is not ops.rsqrt:
        raise HardwareLimit(f"tensor_scalar on GpSimd computes nl.rsqrt only, not {op0}")


def check_scalar(role: str, value: Any, data: NkiTensor, op: Op) -> None:
    """A scalar operand: a number, or a (partitions, 1) tensor of float32 for arithmetic."""
    if not isinstance(value, NkiTensor):
        return
    checks.scalar_operand(role, value, data)
    if op.kind == "arith" and value.dtype != float32:
        raise HardwareLimit(f"`{role}` is {value.dtype}; arithmetic operands are float32")


def tensor_scalar(
    dst: NkiTensor, data: NkiTensor, op0: Any, operand0: Any, reverse0: bool = False,
    op1: Any = None, operand1: Any = None, reverse1: bool = False,
    engine: Engine = Engine.unknown, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    first = operator(op0, "op0")
    second = None if op1 is None else operator(op1, "op1")
    default = "gpsimd" if first is ops.rsqrt and "psum" not in (dst.space, data.space) else "vector"
    chosen = pick(engine, default, "vector", "scalar", "gpsimd")
    bitvec = first.kind == "bitvec"

    def check() -> None:
        checks.same_elements(data=data, dst=dst)
        binary(core, first, "op0")
        check_scalar("operand0", operand0, data, first)
        _scalar_on_engine(core, chosen, first, second)
        if second is not None:
            binary(core, second, "op1")
            check_scalar("operand1", operand1, data, second)
            if (second.kind == "bitvec") != bitvec:
                raise HardwareLimit(f"op0 {first} and op1 {second} mix bitvec and arithmetic")
        if bitvec:
            _require_integers(first, data=data, dst=dst)

    def execute() -> None:
        taint = values.join(core, data, operand0, operand1)
        if bitvec:
            load = _bit_operand(core, data.dtype)
            result = values.rows(core.raw(data))
        else:
            load = _float_operand(core)
            result = values.rows(core.load(data))
        result = compute(first, result, load(operand0), reverse0)
        if second is not None:
            result = compute(second, result, load(operand1), reverse1)
        core.store(dst, result, taint)

    return core.issue(
        "tensor_scalar", chosen, writes={"dst": dst},
        reads=values.tensors(data=data, operand0=operand0, operand1=operand1),
        execute=execute, check=check,
        params=_params(op0=first, operand0=operand0, op1=second, operand1=operand1), name=name,
    )  # fmt: skip


def _params(**values_: Any) -> dict[str, Any]:
    return {k: v for k, v in values_.items() if v is not None and not isinstance(v, NkiTensor)}


def _float_operand(core: Core) -> Callable[[Any], Any]:
    return lambda value: None if value is None else values.broadcast(core, value)


def _bit_operand(core: Core, dtype: DType) -> Callable[[Any], Any]:
    kind = host_dtype(dtype, True)

    def load(value: Any) -> Any:
        if isinstance(value, NkiTensor):
            return core.raw(value).reshape(value.shape[0], 1).astype(kind)
        return None if value is None else np.array(int(value)).astype(kind)

    return load


def scalar_tensor_tensor(
    dst: NkiTensor, data: NkiTensor, op0: Any, operand0: Any, op1: Any, operand1: NkiTensor,
    reverse0: bool = False, reverse1: bool = False, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    first, second = operator(op0, "op0"), operator(op1, "op1")

    def check() -> None:
        for role, op in (("op0", first), ("op1", second)):
            binary(core, op, role)
            if op.kind == "bitvec":
                raise HardwareLimit(f"`{role}` = {op} is a bitvec operator; use an arithmetic one")
        checks.same_elements(data=data, operand1=operand1, dst=dst)
        checks.not_both_psum(data=data, operand1=operand1)
        if isinstance(operand0, NkiTensor):
            checks.scalar_operand("operand0", operand0, data)

    def execute() -> None:
        taint = values.join(core, data, operand0, operand1)
        left = values.rows(core.load(data))
        result = compute(first, left, values.broadcast(core, operand0), reverse0)
        result = compute(second, result, values.rows(core.load(operand1)), reverse1)
        core.store(dst, result, taint)

    return core.issue(
        "scalar_tensor_tensor", "vector", writes={"dst": dst},
        reads=values.tensors(data=data, operand0=operand0, operand1=operand1),
        execute=execute, check=check, params=_params(op0=first, operand0=operand0, op1=second),
        name=name,
    )  # fmt: skip


def reciprocal(dst: NkiTensor, data: NkiTensor, name: str | None = None) -> Instruction:
    core = current()

    def execute() -> None:
        core.store(dst, np.float32(1.0) / core.load(data), core.taint(data))

    return core.issue(
        "reciprocal", "vector", writes={"dst": dst}, reads={"data": data}, execute=execute,
        check=lambda: checks.same_elements(data=data, dst=dst), name=name,
    )  # fmt: skip

"""Scalar Engine: `activation` and its accumulator registers, one float32 for each partition."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim import checks, ops, values
from ndtrain.nkisim.dtypes import float32, tfloat32
from ndtrain.nkisim.enums import reduce_cmd as Cmd
from ndtrain.nkisim.enums import require
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.isa_elementwise import operator
from ndtrain.nkisim.machine import Core, current
from ndtrain.nkisim.ops import Op
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction

_RESETS = (Cmd.reset, Cmd.reset_reduce)
_REDUCES = (Cmd.reduce, Cmd.reset_reduce)


def activation(
    dst: NkiTensor, op: Any, data: NkiTensor, bias: Any = None, scale: Any = 1.0,
    reduce_op: Any = None, reduce_res: NkiTensor | None = None, reduce_cmd: Cmd = Cmd.idle,
    name: str | None = None,
) -> Instruction:  # fmt: skip
    return _activate(
        "activation", dst, op, data, bias, scale, reduce_op, reduce_res, reduce_cmd, name
    )


def activation_reduce(
    dst: NkiTensor, op: Any, data: NkiTensor, reduce_op: Any, reduce_res: NkiTensor | None,
    bias: Any = None, scale: Any = 1.0, name: str | None = None,
) -> Instruction:  # fmt: skip
    return _activate(
        "activation_reduce", dst, op, data, bias, scale, reduce_op, reduce_res,
        Cmd.reset_reduce, name,
    )  # fmt: skip


def _activate(
    opcode: str, dst: NkiTensor, op: Any, data: NkiTensor, bias: Any, scale: Any, reduce_op: Any,
    reduce_res: NkiTensor | None, cmd: Cmd, name: str | None,
) -> Instruction:  # fmt: skip
    core = current()
    require(Cmd, reduce_cmd=cmd)
    token = operator(op, "op")
    reducer = None if reduce_op is None else operator(reduce_op, "reduce_op")

    def check() -> None:
        checks.same_elements(data=data, dst=dst)
        _check_function(token)
        _check_affine(core, data, bias, scale)
        _check_reduction(data, reducer, reduce_res, cmd)

    def execute() -> None:
        # reduce_res may be the memory of data or dst: it is read out last.
        taint = values.join(core, data, bias, scale)
        result = _apply(core, token, data, bias, scale)
        _accumulate(core, data, result, taint, cmd)
        core.store(dst, result, taint)
        if reduce_res is not None:
            _read_registers(core, reduce_res, data)

    reads = values.tensors(data=data, bias=bias, scale=scale)
    writes = values.tensors(dst=dst, reduce_res=reduce_res)
    params: dict[str, Any] = {"op": token, "reduce_cmd": cmd.name}
    for key, value in (("bias", bias), ("scale", scale), ("reduce_op", reducer)):
        if value is not None and not isinstance(value, NkiTensor):
            params[key] = value
    return core.issue(
        opcode, "scalar", writes=writes, reads=reads, execute=execute, check=check,
        params=params, name=name,
    )  # fmt: skip


def _check_function(op: Op) -> None:
    if not op.activation:
        raise HardwareLimit(
            f"`op` = {op} is no activation function of the Scalar Engine",
            help="the functions are " + ", ".join(o.name for o in ops.ALL.values() if o.activation),
        )


def _check_affine(core: Core, data: NkiTensor, bias: Any, scale: Any) -> None:
    if isinstance(scale, NkiTensor):
        checks.scalar_operand("scale", scale, data)
        if scale.dtype != float32:
            raise HardwareLimit(f"`scale` is {scale.dtype} and must be float32")
    if isinstance(bias, NkiTensor):
        checks.scalar_operand("bias", bias, data)
        if bias.dtype == tfloat32:
            raise HardwareLimit("`bias` cannot be tfloat32")
    elif bias is not None and float(bias) != 0.0:
        checks.generation(core.target, 3, "a constant `bias`")


def _check_reduction(
    data: NkiTensor, reducer: Op | None, reduce_res: NkiTensor | None, cmd: Cmd
) -> None:
    if cmd is Cmd.load_reduce:
        raise HardwareLimit("the Scalar Engine does not support reduce_cmd.load_reduce")
    if reducer is not None and reducer is not ops.add:
        raise HardwareLimit(f"`reduce_op` = {reducer}; the Scalar Engine reduces with nl.add")
    if reducer is None and cmd in _REDUCES:
        raise HardwareLimit(f"reduce_cmd.{cmd.name} needs `reduce_op`")
    if reduce_res is not None:
        checks.scalar_operand("reduce_res", reduce_res, data)


def _apply(core: Core, op: Op, data: NkiTensor, bias: Any, scale: Any) -> np.ndarray:
    x = values.rows(core.load(data))
    if isinstance(scale, NkiTensor) or scale != 1.0:
        x = x * values.broadcast(core, scale)
    if isinstance(bias, NkiTensor) or (bias is not None and bias != 0.0):
        x = x + values.broadcast(core, bias)
    result = op.fn(x)
    limits = ops.ACTIVATION_RANGE.get(op.name)
    if limits is not None:
        # Outside the table the hardware's result means nothing; NaN makes that visible.
        result = np.where((x >= limits[0]) & (x <= limits[1]), result, np.float32(np.nan))
    return result.astype(np.float32, copy=False)


def _lanes(tensor: NkiTensor) -> slice:
    # The engine's lanes are numbered from the first active partition.
    return slice(0, tensor.shape[0])


def _accumulate(
    core: Core, data: NkiTensor, result: np.ndarray, taint: np.ndarray | None, cmd: Cmd
) -> None:
    lanes = _lanes(data)
    if cmd in _RESETS:
        core.scalar_accumulator[lanes] = 0.0
        core.scalar_taint[lanes] = False
    if cmd in _REDUCES:
        core.scalar_accumulator[lanes] += result.sum(axis=1, dtype=np.float32)
        if taint is not None:
            core.scalar_taint[lanes] |= taint.any(axis=1)


def _read_registers(core: Core, reduce_res: NkiTensor, data: NkiTensor) -> None:
    lanes = _lanes(data)
    taint = core.scalar_taint[lanes, None] if core.scalar_taint[lanes].any() else None
    core.store(reduce_res, core.scalar_accumulator[lanes, None].copy(), taint)

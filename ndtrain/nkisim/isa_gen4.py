"""Instructions of NeuronCore-v4 that need no packed types: exponential, activate2."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim import checks, ops, values
from ndtrain.nkisim.dtypes import float32
from ndtrain.nkisim.enums import reduce_cmd as Cmd
from ndtrain.nkisim.enums import require
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.isa_elementwise import compute, operator
from ndtrain.nkisim.isa_reduce import accumulate, check_result, read_registers
from ndtrain.nkisim.machine import Core, current
from ndtrain.nkisim.ops import Op
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction

_PAIRS = (
    ("multiply", "add"), ("multiply", "subtract"), ("multiply", "bypass"), ("add", "bypass"),
    ("subtract", "bypass"), ("bypass", "bypass"),
)  # fmt: skip
_FOLDS = {
    "add": (0.0, np.add), "maximum": (-np.inf, np.maximum), "minimum": (np.inf, np.minimum),
}  # fmt: skip


def exponential(
    dst: NkiTensor, src: NkiTensor, max_value: Any = 0.0, reduce_res: NkiTensor | None = None,
    reduce_cmd: Cmd = Cmd.idle, reduce_init: Any = 0.0, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    require(Cmd, reduce_cmd=reduce_cmd)

    def check() -> None:
        checks.generation(core.target, 4, "exponential")
        checks.same_elements(src=src, dst=dst)
        if reduce_cmd is Cmd.reset:
            raise HardwareLimit("reduce_cmd.reset is not supported here")
        if isinstance(max_value, NkiTensor):
            checks.scalar_operand("max_value", max_value, src)
            if max_value.dtype != float32:
                raise HardwareLimit(f"`max_value` is {max_value.dtype} and must be float32")
        if reduce_cmd is not Cmd.load_reduce and not _is_zero(reduce_init):
            raise HardwareLimit("`reduce_init` goes with reduce_cmd.load_reduce")
        check_result(reduce_res, src)

    def execute() -> None:
        taint = values.join(core, src, max_value)
        result = np.exp(values.rows(core.load(src)) - values.broadcast(core, max_value))
        total = result.sum(axis=1, dtype=np.float32)
        accumulate(core, src, ops.add, reduce_cmd, total, values.any_in_row(taint), reduce_init)
        core.store(dst, result, taint)
        if reduce_res is not None:
            read_registers(core, reduce_res)

    return core.issue(
        "exponential", "vector", writes=values.tensors(dst=dst, reduce_res=reduce_res),
        reads=values.tensors(src=src, max_value=max_value, reduce_init=reduce_init),
        execute=execute, check=check, params={"reduce_cmd": reduce_cmd.name}, name=name,
    )  # fmt: skip


def _is_zero(value: Any) -> bool:
    return not isinstance(value, NkiTensor) and value == 0.0


def activate2(
    dst: NkiTensor, op: Any, data: NkiTensor, imm0: Any, imm1: Any, op0: Any, op1: Any,
    relu_param: Any = 0.0, reverse0: bool = False, reverse1: bool = False, reduce_op: Any = None,
    reduce_res: NkiTensor | None = None, reduce_cmd: Cmd = Cmd.idle, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    require(Cmd, reduce_cmd=reduce_cmd)
    token, first, second = operator(op, "op"), operator(op0, "op0"), operator(op1, "op1")
    fold = None if reduce_op is None else operator(reduce_op, "reduce_op")

    def check() -> None:
        checks.generation(core.target, 4, "activate2")
        checks.same_elements(data=data, dst=dst)
        if not token.activation:
            raise HardwareLimit(f"`op` = {token} is no activation function")
        if (first.name, second.name) not in _PAIRS:
            raise HardwareLimit(f"`op0`, `op1` = {first}, {second} do not combine")
        if fold is not None and fold.name not in _FOLDS:
            raise HardwareLimit(f"`reduce_op` = {fold} is not simulated", help=", ".join(_FOLDS))
        if fold is None and reduce_cmd in (Cmd.reduce, Cmd.reset_reduce):
            raise HardwareLimit(f"reduce_cmd.{reduce_cmd.name} needs `reduce_op`")
        if reduce_cmd is Cmd.load_reduce:
            raise HardwareLimit("the Scalar Engine does not support reduce_cmd.load_reduce")
        for role, value in (("imm0", imm0), ("imm1", imm1)):
            if isinstance(value, NkiTensor):
                checks.scalar_operand(role, value, data)
        check_result(reduce_res, data)

    def execute() -> None:
        taint = values.join(core, data, imm0, imm1, relu_param)
        x = values.rows(core.load(data))
        if first is not ops.bypass:
            x = compute(first, x, values.broadcast(core, imm0), reverse0)
        if second is not ops.bypass:
            x = compute(second, x, values.broadcast(core, imm1), reverse1)
        slope = (values.broadcast(core, relu_param),) if token is ops.prelu else ()
        result = token.fn(x, *slope).astype(np.float32, copy=False)
        _fold(core, result, taint, fold, reduce_cmd)
        core.store(dst, result, taint)
        if reduce_res is not None:
            lanes = slice(0, data.shape[0])
            marks = core.scalar_taint[lanes, None]
            core.store(reduce_res, core.scalar_accumulator[lanes, None].copy(),
                       marks if marks.any() else None)  # fmt: skip

    return core.issue(
        "activate2", "scalar", writes=values.tensors(dst=dst, reduce_res=reduce_res),
        reads=values.tensors(data=data, imm0=imm0, imm1=imm1, relu_param=relu_param),
        execute=execute, check=check,
        params={"op": token, "op0": first, "op1": second, "reduce_cmd": reduce_cmd.name},
        name=name,
    )  # fmt: skip


def _fold(
    core: Core, result: np.ndarray, taint: np.ndarray | None, op: Op | None, cmd: Cmd
) -> None:
    """Update the Scalar Engine's registers with `op` over each row."""
    lanes = slice(0, result.shape[0])
    identity, ufunc = _FOLDS[op.name] if op is not None else (0.0, np.add)
    if cmd in (Cmd.reset, Cmd.reset_reduce):
        core.scalar_accumulator[lanes] = identity
        core.scalar_taint[lanes] = False
    if cmd in (Cmd.reduce, Cmd.reset_reduce):
        partial = ufunc.reduce(result, axis=1)
        core.scalar_accumulator[lanes] = ufunc(core.scalar_accumulator[lanes], partial)
        if taint is not None:
            core.scalar_taint[lanes] |= taint.any(axis=1)

"""iota, and the instructions that select elements by position or by a predicate."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim import checks, ops, values
from ndtrain.nkisim.dtypes import float32, int32, tfloat32, uint32
from ndtrain.nkisim.enums import reduce_cmd as Cmd
from ndtrain.nkisim.enums import require
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.isa_elementwise import operator
from ndtrain.nkisim.isa_reduce import accumulate, check_result, read_registers
from ndtrain.nkisim.machine import current
from ndtrain.nkisim.ops import Op
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction

FP32_MIN = -3.4028234663852886e38
EXACT_INTEGERS = 2**24
_PATTERN_DIMS = 4
_RANGE_OPS = ("equal", "less", "less_equal", "greater", "greater_equal")


def _affine(pattern: Any, partitions: int, offset: int, multiplier: int) -> np.ndarray:
    """offset + partition * multiplier + sum(step * index), (partitions, elements) int64."""
    total = np.zeros(1, np.int64)
    for step, count in pattern:
        total = np.add.outer(total, int(step) * np.arange(int(count), dtype=np.int64)).reshape(-1)
    lanes = np.arange(partitions, dtype=np.int64)[:, None] * int(multiplier)
    return lanes + total[None, :] + int(offset)


def _check_pattern(pattern: Any, dst: NkiTensor) -> None:
    if not 1 <= len(pattern) <= _PATTERN_DIMS:
        raise HardwareLimit(f"`pattern` has {len(pattern)} dimensions; 1 to {_PATTERN_DIMS}")
    count = 1
    for _, size in pattern:
        count *= int(size)
    if count != dst.free_size:
        raise HardwareLimit(
            f"`pattern` makes {count} values, `dst` has {dst.free_size} elements per partition"
        )


def iota(
    dst: NkiTensor, pattern: Any, offset: int = 0, channel_multiplier: int = 0,
    name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()

    def check() -> None:
        checks.in_space("dst", dst, "sbuf")
        _check_pattern(pattern, dst)

    def execute() -> None:
        grid = _affine(pattern, dst.shape[0], offset, channel_multiplier).astype(np.int32)
        core.store(dst, grid if dst.dtype.is_integer else grid.astype(np.float32))

    return core.issue(
        "iota", "gpsimd", writes={"dst": dst}, reads={}, execute=execute, check=check,
        params={"pattern": pattern, "offset": offset, "channel_multiplier": channel_multiplier},
        name=name,
    )  # fmt: skip


def affine_select(
    dst: NkiTensor, pattern: Any, channel_multiplier: int, on_true_tile: NkiTensor,
    on_false_value: float, cmp_op: Any = ops.equal, offset: int = 0, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    compare = operator(cmp_op, "cmp_op")

    def check() -> None:
        checks.in_space("dst", dst, "sbuf")
        checks.in_space("on_true_tile", on_true_tile, "sbuf")
        checks.same_elements(on_true_tile=on_true_tile, dst=dst)
        _check_pattern(pattern, dst)
        if not compare.is_comparison:
            raise HardwareLimit(f"`cmp_op` = {compare} is no comparison")
        if isinstance(on_false_value, NkiTensor):
            raise HardwareLimit("`on_false_value` is a compile-time number")

    def execute() -> None:
        grid = _affine(pattern, dst.shape[0], offset, channel_multiplier)
        keep = compare.fn(grid, 0) != 0
        taint = values.join(core, on_true_tile)
        if on_true_tile.dtype == dst.dtype and dst.dtype.is_integer:
            source = values.rows(core.raw(on_true_tile)).astype(np.float64)
        else:
            source = values.rows(core.load(on_true_tile))
        result = np.where(keep, source, source.dtype.type(on_false_value))
        core.store(dst, result, None if taint is None else taint & keep)

    return core.issue(
        "affine_select", "gpsimd", writes={"dst": dst}, reads={"on_true_tile": on_true_tile},
        execute=execute, check=check,
        params={"pattern": pattern, "offset": offset, "channel_multiplier": channel_multiplier,
                "cmp_op": compare},
        name=name,
    )  # fmt: skip


def range_select(
    dst: NkiTensor, on_true_tile: NkiTensor, comp_op0: Any, comp_op1: Any, bound0: NkiTensor,
    bound1: NkiTensor, reduce_cmd: Cmd = Cmd.reset_reduce, reduce_res: NkiTensor | None = None,
    reduce_op: Any = ops.maximum, range_start: int = 0, on_false_value: float = FP32_MIN,
    name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    first, second = operator(comp_op0, "comp_op0"), operator(comp_op1, "comp_op1")
    folder = operator(reduce_op, "reduce_op")
    require(Cmd, reduce_cmd=reduce_cmd)

    def check() -> None:
        checks.generation(core.target, 3, "range_select")
        checks.same_elements(on_true_tile=on_true_tile, dst=dst)
        _check_range_operands(first, second, folder, on_true_tile, bound0, bound1)
        _check_nothing_to_load(reduce_cmd)
        if np.float32(on_false_value) != np.float32(FP32_MIN):
            raise HardwareLimit(f"`on_false_value` {on_false_value} must be {FP32_MIN}")
        if range_start + on_true_tile.free_size > EXACT_INTEGERS:
            raise HardwareLimit("indices beyond 2**24 are not exact in float32")
        check_result(reduce_res, on_true_tile)

    def execute() -> None:
        index = (range_start + np.arange(on_true_tile.free_size)).astype(np.float32)[None, :]
        keep = first.fn(index, values.broadcast(core, bound0)) != 0
        keep &= second.fn(index, values.broadcast(core, bound1)) != 0
        taint = values.join(core, on_true_tile)
        taint = None if taint is None else taint & keep
        bounds = values.join(core, bound0, bound1)
        if bounds is not None:
            taint = np.broadcast_to(bounds, keep.shape) if taint is None else taint | bounds
        result = np.where(keep, values.rows(core.load(on_true_tile)), np.float32(FP32_MIN))
        accumulate(core, on_true_tile, ops.maximum, reduce_cmd, result.max(axis=1),
                   values.any_in_row(taint), None)  # fmt: skip
        core.store(dst, result, taint)
        if reduce_res is not None:
            read_registers(core, reduce_res)

    return core.issue(
        "range_select", "vector", writes=values.tensors(dst=dst, reduce_res=reduce_res),
        reads={"on_true_tile": on_true_tile, "bound0": bound0, "bound1": bound1},
        execute=execute, check=check,
        params={"comp_op0": first, "comp_op1": second, "range_start": range_start,
                "reduce_cmd": reduce_cmd.name},
        name=name,
    )  # fmt: skip


def _check_range_operands(
    first: Op, second: Op, folder: Op, tile: NkiTensor, bound0: NkiTensor, bound1: NkiTensor
) -> None:
    for role, op in (("comp_op0", first), ("comp_op1", second)):
        if op.name not in _RANGE_OPS:
            raise HardwareLimit(f"`{role}` = {op} must be one of {', '.join(_RANGE_OPS)}")
    if folder is not ops.maximum:
        raise HardwareLimit(f"`reduce_op` = {folder}; range_select reduces with nl.maximum")
    if not tile.dtype.is_float:
        raise HardwareLimit(f"`on_true_tile` is {tile.dtype} and must be a float type")
    for role, bound in (("bound0", bound0), ("bound1", bound1)):
        checks.scalar_operand(role, bound, tile)
        if bound.dtype != float32:
            raise HardwareLimit(f"`{role}` is {bound.dtype} and must be float32")


def _check_nothing_to_load(cmd: Cmd) -> None:
    if cmd is Cmd.load_reduce:
        raise HardwareLimit("reduce_cmd.load_reduce has no value to load here")


def select_reduce(
    dst: NkiTensor, predicate: NkiTensor, on_true: NkiTensor, on_false: Any,
    reduce_res: NkiTensor | None = None, reduce_cmd: Cmd = Cmd.idle,
    reduce_op: Any = ops.maximum, reverse_pred: bool = False, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    require(Cmd, reduce_cmd=reduce_cmd)
    folder = operator(reduce_op, "reduce_op")

    def check() -> None:
        checks.same_elements(predicate=predicate, on_true=on_true, dst=dst)
        checks.not_both_psum(predicate=predicate, on_true=on_true)
        if on_true.dtype in (tfloat32, int32, uint32):
            raise HardwareLimit(f"`on_true` is {on_true.dtype}, which it does not support")
        if not predicate.dtype.is_integer or predicate.dtype.itemsize > 2:
            raise HardwareLimit(f"`predicate` is {predicate.dtype}; use an 8- or 16-bit integer")
        if folder is not ops.maximum:
            raise HardwareLimit(f"`reduce_op` = {folder}; it reduces with nl.maximum")
        _check_nothing_to_load(reduce_cmd)
        if isinstance(on_false, NkiTensor):
            checks.scalar_operand("on_false", on_false, on_true)
        check_result(reduce_res, on_true)

    def execute() -> None:
        keep = (values.rows(core.raw(predicate)) != 0) ^ bool(reverse_pred)
        result = np.where(
            keep, values.rows(core.load(on_true)), values.broadcast(core, on_false)
        ).astype(np.float32)
        taint = values.join(core, on_true)
        taint = None if taint is None else taint & keep
        predicate_taint = values.join(core, predicate)
        if predicate_taint is not None:
            taint = predicate_taint if taint is None else taint | predicate_taint
        accumulate(core, on_true, ops.maximum, reduce_cmd, result.max(axis=1),
                   values.any_in_row(taint), None)  # fmt: skip
        core.store(dst, result, taint)
        if reduce_res is not None:
            read_registers(core, reduce_res)

    return core.issue(
        "select_reduce", "vector", writes=values.tensors(dst=dst, reduce_res=reduce_res),
        reads=values.tensors(predicate=predicate, on_true=on_true, on_false=on_false),
        execute=execute, check=check, params={"reduce_cmd": reduce_cmd.name}, name=name,
    )  # fmt: skip


def tensor_copy_predicated(
    dst: NkiTensor, src: Any, predicate: NkiTensor, reverse_pred: bool = False,
    name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()

    def check() -> None:
        checks.same_elements(predicate=predicate, dst=dst)
        if predicate.dtype.kind != "u":
            raise HardwareLimit(f"`predicate` is {predicate.dtype}; use an unsigned integer")
        if isinstance(src, NkiTensor):
            checks.same_elements(src=src, dst=dst)
            checks.not_both_psum(src=src, predicate=predicate)
            if src.dtype != dst.dtype:
                raise HardwareLimit(f"`src` is {src.dtype}, `dst` is {dst.dtype}; equal types only")

    def execute() -> None:
        keep = (values.rows(core.raw(predicate)) != 0) ^ bool(reverse_pred)
        old = values.rows(core.raw(dst))
        if isinstance(src, NkiTensor):
            new = values.rows(core.raw(src))
        else:
            new = np.full(old.shape, src, np.float32).astype(old.dtype)
        kept = values.join(core, dst)
        taken = values.join(core, src)
        taint = None
        if kept is not None or taken is not None:
            clean = np.zeros(keep.shape, bool)
            taint = np.where(keep, clean if taken is None else taken,
                             clean if kept is None else kept)  # fmt: skip
        core.store(dst, np.where(keep, new, old), taint, raw=True)

    return core.issue(
        "tensor_copy_predicated", "vector", writes={"dst": dst},
        reads=values.tensors(src=src, predicate=predicate), execute=execute, check=check,
        name=name,
    )  # fmt: skip

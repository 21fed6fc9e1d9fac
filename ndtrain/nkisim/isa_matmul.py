"""Tensor Engine: matmul into PSUM, and transposes.

`dst[M, N] (+)= stationary[K, M].T @ moving[K, N]` with K on the partitions. Accumulation is tracked
per PSUM element: a matmul's write marks it, any other write or a fresh `nl.ndarray` clears it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim import checks, values
from ndtrain.nkisim.dtypes import (
    DType,
    bfloat16,
    float8_e4m3,
    float8_e4m3fn,
    float8_e5m2,
    float16,
    float32,
    round_tf32,
    tfloat32,
)
from ndtrain.nkisim.enums import engine as Engine
from ndtrain.nkisim.enums import matmul_perf_mode as PerfMode
from ndtrain.nkisim.errors import AccumulationError, HardwareLimit
from ndtrain.nkisim.isa_elementwise import pick
from ndtrain.nkisim.machine import Core, Taint, current
from ndtrain.nkisim.target import (
    MATMUL_STATIONARY_FREE,
    NUM_PARTITIONS,
    PSUM_BANK_BYTES,
    QUADRANT,
)
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction

_FP8 = (float8_e4m3, float8_e5m2, float8_e4m3fn)
_OPERANDS = (*_FP8, bfloat16, float16, tfloat32, float32)
_WIDE = (float32, tfloat32)


def nc_matmul(
    dst: NkiTensor, stationary: NkiTensor, moving: NkiTensor, is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False, is_transpose: bool = False, accumulate: bool | None = None,
    tile_position: tuple = (), tile_size: tuple = (), perf_mode: PerfMode = PerfMode.none,
    name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    double = perf_mode is PerfMode.double_row

    def check() -> None:
        checks.in_space("stationary", stationary, "sbuf")
        checks.in_space("moving", moving, "sbuf")
        checks.in_space("dst", dst, "psum")
        _check_dtypes(core, stationary.dtype, moving.dtype, double, is_transpose)
        _check_result(core, dst, stationary, moving, is_transpose)
        _check_sizes(core, dst, stationary, moving, double)
        _check_tiling(core, stationary, tuple(tile_position), tuple(tile_size))
        bank(core, dst)

    def execute() -> None:
        if is_transpose and core.target.generation >= 3 and _is_identity(core, moving):
            _store_transpose(core, dst, stationary)
            _mark(dst)
            return
        left = _operand(core, stationary, double)
        right = _operand(core, moving, double)
        result = np.matmul(left.T, right)
        taint = _product_taint(core, stationary, moving, double)
        _accumulate(core, dst, result, taint, accumulate)

    params: dict[str, Any] = {"accumulate": accumulate}
    if is_transpose:
        params["is_transpose"] = True
    if double:
        params["perf_mode"] = "double_row"
    if is_stationary_onezero or is_moving_onezero:
        params["onezero"] = (is_stationary_onezero, is_moving_onezero)
    if tile_size:
        params |= {"tile_position": tuple(tile_position), "tile_size": tuple(tile_size)}
    return core.issue(
        "nc_matmul", "tensor", writes={"dst": dst},
        reads={"stationary": stationary, "moving": moving}, execute=execute, check=check,
        params=params, name=name,
    )  # fmt: skip


def _check_dtypes(core: Core, left: DType, right: DType, double: bool, transpose: bool) -> None:
    for role, dtype in (("stationary", left), ("moving", right)):
        if dtype not in _OPERANDS:
            raise HardwareLimit(
                f"`{role}` is {dtype}", help="use " + ", ".join(str(d) for d in _OPERANDS)
            )
        checks.dtype_supported(core.target, dtype, f"`{role}`")
    if not transpose and (left in _WIDE) != (right in _WIDE):
        raise HardwareLimit(
            f"`stationary` is {left} and `moving` is {right}",
            help="float32 and tfloat32 pair only with each other",
        )
    if {left, right} == {float8_e4m3, float8_e4m3fn}:
        raise HardwareLimit("float8_e4m3 and float8_e4m3fn cannot be mixed in one matmul")
    if double:
        checks.generation(core.target, 3, "perf_mode double_row")
        if left not in _FP8 or right not in _FP8:
            raise HardwareLimit(f"double_row multiplies fp8 operands, not {left} and {right}")


def _check_result(
    core: Core, dst: NkiTensor, stationary: NkiTensor, moving: NkiTensor, is_transpose: bool
) -> None:
    if is_transpose and core.target.generation >= 3:
        if dst.dtype != stationary.dtype and dst.dtype != float32:
            raise HardwareLimit(f"`dst` is {dst.dtype}; a transpose keeps {stationary.dtype}")
        return
    allowed = (float32, bfloat16) if core.target.generation >= 4 else (float32,)
    if dst.dtype not in allowed and not (is_transpose and dst.dtype == stationary.dtype):
        names = " or ".join(str(d) for d in allowed)
        raise HardwareLimit(f"`dst` is {dst.dtype}; {core.target.name} writes {names}")


def _check_sizes(
    core: Core, dst: NkiTensor, stationary: NkiTensor, moving: NkiTensor, double: bool
) -> None:
    if stationary.shape[0] != moving.shape[0]:
        raise HardwareLimit(
            f"contraction differs: `stationary` has {stationary.shape[0]} partitions, "
            f"`moving` has {moving.shape[0]}"
        )
    pairs = 2 if double else 1
    if double:
        for role, tensor in (("stationary", stationary), ("moving", moving)):
            if tensor.ndim < 3 or tensor.shape[1] != pairs:
                raise HardwareLimit(f"`{role}` {list(tensor.shape)}: double_row needs [K, 2, F]")
    rows, columns = stationary.free_size // pairs, moving.free_size // pairs
    if rows > MATMUL_STATIONARY_FREE:
        raise HardwareLimit(
            f"`stationary` has {rows} free elements; the limit is {MATMUL_STATIONARY_FREE}"
        )
    wide = core.target.moving_free_16bit if dst.dtype == bfloat16 else core.target.moving_free
    if columns > wide:
        raise HardwareLimit(f"`moving` has {columns} free elements; the limit is {wide}")
    if dst.shape[0] != rows or dst.free_size != columns:
        raise HardwareLimit(f"`dst` has shape {list(dst.shape)} and must be [{rows}, {columns}]")


def _check_tiling(core: Core, stationary: NkiTensor, position: tuple, size: tuple) -> None:
    if bool(position) != bool(size):
        raise HardwareLimit("`tile_position` and `tile_size` go together")
    if not size:
        return
    rows, columns = size
    sizes = [s for s in (QUADRANT, 64, NUM_PARTITIONS) if s >= core.target.matmul_row_tile]
    for axis, count in (("row", rows), ("column", columns)):
        if count not in sizes:
            names = ", ".join(map(str, sizes))
            raise HardwareLimit(f"{axis} tile {count}; {core.target.name} has tiles of {names}")
    if position[1] % columns or position[0] % rows:
        raise HardwareLimit(f"tile_position {position} is no multiple of tile_size {size}")
    ends = (position[0] + rows, position[1] + columns)
    if min(position) < 0 or max(ends) > NUM_PARTITIONS:
        raise HardwareLimit(f"tile {position} + {size} leaves the 128x128 array")
    if stationary.shape[0] > rows or stationary.free_size > columns:
        raise HardwareLimit(f"`stationary` {list(stationary.shape)} exceeds tile_size {size}")


def bank(core: Core, dst: NkiTensor) -> None:
    """Refuse a matmul result that crosses a PSUM bank (gen2, gen3)."""
    assert dst.storage is not None
    _, _, first, end = dst.storage.extent(dst.window, dst.dtype)
    if end - first > core.target.matmul_banks * PSUM_BANK_BYTES:
        raise HardwareLimit(f"`dst` spans {end - first} bytes of PSUM, a bank is 2048")
    if core.target.matmul_banks == 1 and first // PSUM_BANK_BYTES != (end - 1) // PSUM_BANK_BYTES:
        raise HardwareLimit(
            f"`dst` covers bytes {first}..{end} of its PSUM tensor and crosses a bank",
            help=f"a matmul result lies in one bank of {PSUM_BANK_BYTES} bytes",
        )


def _operand(core: Core, tensor: NkiTensor, double: bool) -> np.ndarray:
    """[K, F] float32; double_row stacks the two halves of the contraction."""
    data = core.load(tensor)
    if tensor.dtype == tfloat32 and core.precise:
        data = round_tf32(data)
    if not double:
        return values.rows(data)
    split = data.reshape(data.shape[0], 2, -1)
    return np.concatenate((split[:, 0], split[:, 1]), axis=0)


def _product_taint(core: Core, left: NkiTensor, right: NkiTensor, double: bool) -> Taint:
    sides: list[Taint] = []
    for tensor in (left, right):
        taint = core.taint(tensor)
        if taint is None:
            sides.append(None)
            continue
        flat = taint.reshape(taint.shape[0] * 2, -1) if double else values.rows(taint)
        sides.append(np.asarray(flat.any(axis=0)))
    if sides[0] is None and sides[1] is None:
        return None
    pairs = 2 if double else 1
    rows = np.zeros(left.free_size // pairs, bool) if sides[0] is None else sides[0]
    columns = np.zeros(right.free_size // pairs, bool) if sides[1] is None else sides[1]
    return rows[:, None] | columns[None, :]


def _accumulate(
    core: Core, dst: NkiTensor, result: np.ndarray, taint: Taint, accumulate: bool | None
) -> None:
    assert dst.storage is not None
    state = dst.storage.matmul_view(dst.window, dst.dtype)
    if accumulate is False:
        adds = False
    else:
        adds = bool(state.all())
        if not adds and (accumulate or state.any()):
            _refuse_accumulation(dst, accumulate)
    if adds:
        core._check_alias(dst)
        result = values.rows(core.load(dst)) + result
        old = values.join(core, dst)
        taint = old if taint is None else (taint if old is None else taint | old)
    core.store(dst, result, taint)
    _mark(dst)


def _refuse_accumulation(dst: NkiTensor, accumulate: bool | None) -> None:
    if accumulate:
        raise AccumulationError(
            f"accumulate=True onto `{dst.name}`, where no matmul has written",
            help="start with accumulate=False; a memset or a copy is no start on this hardware",
        )
    raise AccumulationError(
        f"accumulate=None onto `{dst.name}`, of which a matmul has written only a part",
        help="say accumulate=True or False, or write equal regions each time",
    )


def _mark(dst: NkiTensor) -> None:
    assert dst.storage is not None
    view = dst.storage.matmul_view(dst.window, dst.dtype)
    view[...] = np.iinfo(view.dtype).max


def nc_transpose(
    dst: NkiTensor, data: NkiTensor, engine: Engine = Engine.unknown, name: str | None = None
) -> Instruction:
    core = current()
    small = data.shape[0] <= QUADRANT and data.free_size <= QUADRANT
    default = "tensor" if dst.space == "psum" and not (small and data.space == "psum") else "vector"
    chosen = pick(engine, default, "tensor", "vector")

    def check() -> None:
        limit = NUM_PARTITIONS if chosen == "tensor" else QUADRANT
        if data.shape[0] > limit or data.free_size > limit:
            raise HardwareLimit(
                f"`data` is [{data.shape[0]}, {data.free_size}]; the {chosen} engine transposes "
                f"up to {limit} x {limit}"
            )
        if chosen == "tensor":
            checks.in_space("data", data, "sbuf")
            checks.in_space("dst", dst, "psum")
            bank(core, dst)
        if dst.dtype != data.dtype and not (core.target.generation == 2 and dst.dtype == float32):
            raise HardwareLimit(f"`dst` is {dst.dtype}, `data` is {data.dtype}; equal types only")
        if dst.shape[0] != data.free_size or dst.free_size != data.shape[0]:
            raise HardwareLimit(
                f"`dst` has shape {list(dst.shape)}, not [{data.free_size}, {data.shape[0]}]"
            )

    def execute() -> None:
        exact = core.target.generation >= 3 or chosen == "vector"
        if exact or not data.dtype.is_float:
            _store_transpose(core, dst, data)
        else:
            # gen2 multiplies by an identity: one NaN or Inf spoils its whole row.
            source = values.rows(core.load(data))
            eye = np.eye(source.shape[0], dtype=np.float32)
            bad = ~np.isfinite(source).all()
            core.store(dst, source.T @ eye if bad else source.T, _transposed_taint(core, data))
        if chosen == "tensor":
            _mark(dst)

    return core.issue(
        "nc_transpose", chosen, writes={"dst": dst}, reads={"data": data}, execute=execute,
        check=check, name=name,
    )  # fmt: skip


def _is_identity(core: Core, moving: NkiTensor) -> bool:
    values_ = values.rows(core.load(moving))
    return values_.shape[0] == values_.shape[1] and bool((values_ == np.eye(len(values_))).all())


def _store_transpose(core: Core, dst: NkiTensor, data: NkiTensor) -> None:
    """Every bit of `data`, transposed."""
    core.store(
        dst, values.rows(core.raw(data)).T.copy(), _transposed_taint(core, data),
        raw=data.dtype == dst.dtype,
    )  # fmt: skip


def _transposed_taint(core: Core, data: NkiTensor) -> Taint:
    taint = core.taint(data)
    return None if taint is None else values.rows(taint).T

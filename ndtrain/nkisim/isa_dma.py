"""DMA: copies between HBM and SBUF, gathers and scatters by run-time rows, transposes, sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim import checks, ops, values
from ndtrain.nkisim.dtypes import DType, from_float32, host_dtype, to_float32, uint32
from ndtrain.nkisim.enums import dge_mode as Dge
from ndtrain.nkisim.enums import engine as Engine
from ndtrain.nkisim.enums import oob_mode as Oob
from ndtrain.nkisim.enums import require
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.isa_elementwise import copy, operator
from ndtrain.nkisim.machine import Core, Taint, current
from ndtrain.nkisim.tensor import Indirection, NkiTensor
from ndtrain.nkisim.trace import Instruction

_TRANSPOSES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}
_HWDGE_ROWS = (1, 2, 4, 8, 16)
_MAX_SOURCES = 16
_PRIORITIES = 4


def dma_copy(
    dst: NkiTensor, src: NkiTensor, priority: int | None = None, oob_mode: Oob = Oob.error,
    dge_mode: Dge = Dge.unknown, engine: Engine = Engine.unknown, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    require(Engine, engine=engine)

    def check() -> None:
        if dst.size != src.size:
            raise HardwareLimit(
                f"`dst` {list(dst.shape)} has {dst.size} elements, `src` {list(src.shape)} has "
                f"{src.size}"
            )
        _check_modes(core, dst, src, dge_mode, priority)
        if dge_mode is Dge.hwdge and engine not in (Engine.unknown, Engine.scalar, Engine.sync):
            raise HardwareLimit(f"ScalarE and Sync trigger hwdge, not engine.{engine.name}")

    def execute() -> None:
        _move(core, dst, src, oob_mode)

    return core.issue(
        "dma_copy", "dma", writes={"dst": dst}, reads=_with_index(dst, src), execute=execute,
        check=check, params=_params(dge_mode, oob_mode), name=name,
    )  # fmt: skip


def _params(mode: Dge, oob: Oob) -> dict[str, Any]:
    require(Dge, dge_mode=mode)
    require(Oob, oob_mode=oob)
    return {"dge_mode": mode.name, "oob_mode": oob.name}


def _with_index(*tensors: NkiTensor) -> dict[str, NkiTensor]:
    """The source and the tensors that hold run-time indices; they are read too."""
    dst, *sources = tensors
    found = {f"src{i or ''}": s for i, s in enumerate(sources)}
    for tensor in tensors:
        hit = tensor.indirection
        if hit is not None and isinstance(hit.index, NkiTensor):
            found["dst_index" if tensor is dst else "src_index"] = hit.index
    return found


def _check_modes(
    core: Core, dst: NkiTensor, src: NkiTensor, mode: Dge, priority: int | None
) -> None:
    _check_index(dst, src)
    gathers = _gathers(dst) or _gathers(src)
    addressed = dst.indirection is not None or src.indirection is not None
    if mode is Dge.hwdge:
        checks.generation(core.target, 3, "dge_mode.hwdge")
        if dst.dtype != src.dtype:
            raise HardwareLimit(f"hwdge casts nothing: `src` is {src.dtype}, `dst` is {dst.dtype}")
        if gathers:
            raise HardwareLimit("hwdge resolves no per-partition index; use swdge or unknown")
    if mode is Dge.none and addressed:
        raise HardwareLimit("dge_mode.none has no run-time addresses")
    if "x" in (dst.dtype.kind, src.dtype.kind) and dst.dtype != src.dtype:
        raise HardwareLimit(f"a packed type is not cast: {src.dtype} to {dst.dtype}")
    if priority is not None:
        checks.generation(core.target, 4, "a DMA `priority`")
        if not 0 <= priority < _PRIORITIES:
            raise HardwareLimit(f"`priority` {priority}; 0 to {_PRIORITIES - 1}")


def _check_index(*tensors: NkiTensor) -> None:
    """Refuse a per-partition index that is no SBUF tensor of one 32-bit integer for each row."""
    for tensor in tensors:
        if tensor.indirection is None or not tensor.indirection.vector:
            continue
        index, rows = tensor.indirection.index, tensor.shape[0]
        if not isinstance(index, NkiTensor):
            raise HardwareLimit(f"`vector_offset` is {index!r} and must be an SBUF tensor")
        checks.in_space("vector_offset", index, "sbuf")
        if not index.dtype.is_integer or index.dtype.itemsize != 4:
            raise HardwareLimit(f"`vector_offset` is {index.dtype}; use uint32 or int32")
        if index.size < rows:
            raise HardwareLimit(f"`vector_offset` has {index.size} indices for {rows} rows")


def _move(core: Core, dst: NkiTensor, src: NkiTensor, oob: Oob) -> None:
    if not (_gathers(dst) or _gathers(src)):
        if not (oob is Oob.skip and (_skipped(core, dst) or _skipped(core, src))):
            copy(core, dst, src)
        return
    data, taint, present = gather(core, src, oob) if _gathers(src) else _all(core, src)
    if _gathers(dst):
        _scatter(core, dst, _cast(core, data, src.dtype, dst.dtype), taint, oob)
        return
    cast = _cast(core, data, src.dtype, dst.dtype).reshape(dst.shape)
    if not present.all():
        # Rows whose index is out of bounds leave the destination as it was.
        kept, keep = core.raw(dst).copy(), _rows_mask(present, data, dst)
        old = core.taint(dst)
        cast = np.where(keep, cast, kept)
        if taint is not None or old is not None:
            new = np.zeros(dst.shape, bool) if taint is None else taint.reshape(dst.shape)
            past = np.zeros(dst.shape, bool) if old is None else old
            taint = np.where(keep, new, past)
    core.store(dst, cast, taint, raw=True)


def _gathers(tensor: NkiTensor) -> bool:
    return tensor.indirection is not None and tensor.indirection.vector


def _all(core: Core, src: NkiTensor) -> tuple[np.ndarray, Taint, np.ndarray]:
    return core.raw(src), core.taint(src), np.ones(src.shape[0], bool)


def _rows_mask(present: np.ndarray, data: np.ndarray, dst: NkiTensor) -> np.ndarray:
    full = np.broadcast_to(present.reshape(-1, *([1] * (data.ndim - 1))), data.shape)
    return full.reshape(dst.shape)


def _skipped(core: Core, tensor: NkiTensor) -> bool:
    """True when the run-time scalar index of `tensor` is out of bounds."""
    found = tensor.indirection
    return found is not None and not 0 <= core.scalar(found.index) < found.limit


def _cast(core: Core, data: np.ndarray, source: DType, target: DType) -> np.ndarray:
    if source == target:
        return data
    return from_float32(to_float32(data), target, core.precise)


def _indices(core: Core, found: Indirection, rows: int) -> np.ndarray:
    flat = values.rows(core.raw(found.index)).T.reshape(-1)
    taint = values.join(core, found.index)
    if taint is not None and taint.T.reshape(-1)[:rows].any():
        raise HardwareLimit("`vector_offset` comes from memory that nothing wrote")
    return flat[:rows].astype(np.int64)


def _addresses(
    core: Core, tensor: NkiTensor, oob: Oob
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(flat storage, its taint, element addresses, which rows are in bounds)."""
    storage, found = tensor.storage, tensor.indirection
    assert storage is not None
    assert found is not None
    shape, strides, offset = tensor.window
    index = _indices(core, found, shape[0])
    present = (index >= 0) & (index < found.limit)
    if oob is Oob.error and not present.all():
        bad = index[~present][0]
        raise HardwareLimit(f"run-time row {bad} is outside the {found.limit} rows of the tensor")
    address = np.full(shape, offset, np.int64)
    address += (np.where(present, index, 0) * found.stride).reshape(-1, *([1] * (len(shape) - 1)))
    for dim in range(1, len(shape)):
        step = np.arange(shape[dim]) * strides[dim]
        address += step.reshape(-1, *([1] * (len(shape) - dim - 1)))
    total = tensor.row_elements
    whole = ((total,), (1,), 0)
    if address.max() >= total:
        raise HardwareLimit(f"a run-time row reaches element {address.max()} of {total}")
    kind = storage.view(whole, tensor.dtype)
    taint = storage.read_taint(whole, tensor.dtype)
    return kind, np.zeros(total, bool) if taint is None else taint, address, present


def gather(core: Core, src: NkiTensor, oob: Oob) -> tuple[np.ndarray, Taint, np.ndarray]:
    """The rows that the index selects, their taint, and which of them exist."""
    flat, taint, address, present = _addresses(core, src, oob)
    picked = taint[address]
    return flat[address], picked if picked.any() else None, present


def _scatter(core: Core, dst: NkiTensor, data: np.ndarray, taint: Taint, oob: Oob) -> None:
    flat, old, address, present = _addresses(core, dst, oob)
    rows = address[present]
    flat[rows] = data.reshape(address.shape)[present]
    old = old.copy()
    old[rows] = False if taint is None else taint.reshape(address.shape)[present]
    assert dst.storage is not None
    whole = ((flat.size,), (1,), 0)
    dst.storage.write_taint(whole, dst.dtype, old if old.any() else None)
    dst.storage.written = True


def dma_transpose(
    dst: NkiTensor, src: NkiTensor, axes: tuple[int, ...] | None = None,
    priority: int | None = None, dge_mode: Dge = Dge.unknown, oob_mode: Oob = Oob.error,
    name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    permutation = _TRANSPOSES.get(src.ndim, ())

    def check() -> None:
        if not permutation:
            raise HardwareLimit(f"`src` has {src.ndim} dimensions; 2, 3 or 4 can be transposed")
        if axes is not None and tuple(axes) != permutation:
            raise HardwareLimit(f"`axes` {tuple(axes)}; for {src.ndim} dimensions {permutation}")
        wanted = tuple(src.shape[a] for a in permutation)
        if dst.shape != wanted:
            raise HardwareLimit(f"`dst` has shape {list(dst.shape)}, not {list(wanted)}")
        if dst.dtype != src.dtype or src.dtype.itemsize not in (2, 4):
            raise HardwareLimit(f"`src` {src}, `dst` {dst}: equal types of 2 or 4 bytes")
        checks.in_space("dst", dst, "sbuf")
        _check_modes(core, dst, src, dge_mode, priority)
        _check_transpose(core, src, dge_mode)

    def execute() -> None:
        data, taint, _ = gather(core, src, oob_mode) if _gathers(src) else _all(core, src)
        core.store(dst, np.ascontiguousarray(data.transpose(permutation)),
                   None if taint is None else taint.transpose(permutation), raw=True)  # fmt: skip

    return core.issue(
        "dma_transpose", "dma", writes={"dst": dst}, reads=_with_index(dst, src), execute=execute,
        check=check, params=_params(dge_mode, oob_mode), name=name,
    )  # fmt: skip


def _check_transpose(core: Core, src: NkiTensor, mode: Dge) -> None:
    # The last dim becomes the partitions of `dst`, which keeps it within its limit of 128.
    if _gathers(src):
        checks.generation(core.target, 3, "an indirect dma_transpose")
        if src.dtype.itemsize != 2 or src.shape[0] % 16:
            raise HardwareLimit(
                f"`src` {list(src.shape)} {src.dtype} does not fit an indirect transpose",
                help="it takes a multiple of 16 rows with elements of 2 bytes",
            )
        assert src.indirection is not None
        index = src.indirection.index
        if index.dtype != uint32:
            raise HardwareLimit(f"`vector_offset` is {index.dtype} and must be uint32")
        return
    if mode not in (Dge.unknown, Dge.hwdge):
        raise HardwareLimit(f"a direct transpose is hwdge or unknown, not {mode.name}")
    if mode is Dge.hwdge:
        rows = src.shape[0]
        fits = rows == 16 if src.ndim == 2 else (
            rows in _HWDGE_ROWS and rows * src.shape[-2] % 16 == 0
        )  # fmt: skip
        if not fits or src.dtype.itemsize != 2:
            raise HardwareLimit(
                f"`src` {list(src.shape)} {src.dtype} does not fit a hwdge transpose",
                help="2-D needs 16 rows, 3-D and 4-D 1, 2, 4, 8 or 16; elements of 2 bytes",
            )


def dma_compute(
    dst: NkiTensor, srcs: list[NkiTensor], reduce_op: Any, scales: Any = None,
    unique_indices: bool = True, oob_mode: Oob = Oob.error, name: str | None = None,
) -> Instruction:  # fmt: skip
    core = current()
    require(Oob, oob_mode=oob_mode)
    token = operator(reduce_op, "reduce_op")
    indirect = [t for t in (dst, *srcs) if _gathers(t)]

    def check() -> None:
        if token is not ops.add:
            raise HardwareLimit(f"`reduce_op` = {token}; the DMA adds")
        packed = [t.dtype for t in (dst, *srcs) if t.dtype.kind == "x"]
        if packed:
            raise HardwareLimit(f"a packed type is not summed: {packed[0]}")
        if scales is not None and any(float(s) != 1.0 for s in scales):
            raise HardwareLimit(f"`scales` {scales}: only 1.0 is supported")
        if not 1 <= len(srcs) <= _MAX_SOURCES:
            raise HardwareLimit(f"`srcs` has {len(srcs)} tensors; 1 to {_MAX_SOURCES} are summed")
        if any(s.size != dst.size for s in srcs):
            raise HardwareLimit(
                f"`dst` has {dst.size} elements, `srcs` have {[s.size for s in srcs]}"
            )
        if indirect and (len(srcs) != 2 or not unique_indices):
            raise HardwareLimit(
                f"a read-modify-write takes 2 `srcs` and unique indices, not {len(srcs)} and "
                f"unique_indices={unique_indices}"
            )
        _check_index(dst, *srcs)

    def execute() -> None:
        total: np.ndarray | None = None
        taint: Taint = None
        for source in srcs:
            found = gather(core, source, oob_mode) if _gathers(source) else _all(core, source)
            data = found[0].astype(np.float32).reshape(dst.shape)
            total = data if total is None else total + data
            if found[1] is not None:
                mask = found[1].reshape(dst.shape)
                taint = mask if taint is None else taint | mask
        assert total is not None
        if _gathers(dst):
            kind = host_dtype(dst.dtype, core.precise)
            _scatter(core, dst, total.astype(kind), taint, oob_mode)
        else:
            core.store(dst, total, taint)

    return core.issue(
        "dma_compute", "dma", writes={"dst": dst}, reads=_with_index(dst, *srcs),
        execute=execute, check=check, params={"reduce_op": token}, name=name,
    )  # fmt: skip

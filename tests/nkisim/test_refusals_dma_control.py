"""Refused transfers, registers and core-to-core moves: one kernel for each limit."""

import runpy
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ndtrain import nkisim
from ndtrain.nkisim import dtypes
from ndtrain.nkisim.errors import HardwareLimit, NkiSimError

from .kernels import hbm, nisa, nl, p, refuses, run, sbuf, t

BF = "bfloat16"
X4 = "float8_e5m2_x4"
engine = nisa.engine
swdge, hwdge, none = nisa.dge_mode.swdge, nisa.dge_mode.hwdge, nisa.dge_mode.none
Case = tuple[str, Callable[[], Any], str, str]


def index(count: int, value: int = 0, dtype: str = "uint32") -> Any:
    """A tile of `count` row indices."""
    return t(count, 1, dtype=dtype, value=value)


def rows(
    picked: Any = None, count: int = 4, width: int = 4, dtype: Any = "float32", **how: Any
) -> Any:
    """`count` rows of a (20, width) tensor in HBM, picked at run time."""
    where = index(count) if picked is None else picked
    return hbm((20, width), dtype).ap([[width, count], [1, width]], vector_offset=where, **how)


def copy(dst: Any, src: Any, **how: Any) -> None:
    nisa.dma_copy(dst, src, **how)


def turn(dst: Any, src: Any, **how: Any) -> None:
    nisa.dma_transpose(dst, src, **how)


def total(sources: list[Any], **how: Any) -> None:
    nisa.dma_compute(hbm((4, 4)), sources, nl.add, **how)


COPIES: list[Case] = [
    (
        "hwdge from VectorE",
        lambda: copy(sbuf((4, 4)), t(4, 4), dge_mode=hwdge, engine=engine.vector),
        "trn2",
        "dma_copy: ScalarE and Sync trigger hwdge, not engine.vector",
    ),
    (
        "an integer as engine",
        lambda: copy(sbuf((4, 4)), t(4, 4), engine=5),
        "trn2",
        "dma_copy: `engine` is 5",
    ),
    (
        "hwdge gather",
        lambda: copy(sbuf((4, 4)), rows(), dge_mode=hwdge),
        "trn2",
        "dma_copy: hwdge resolves no per-partition index",
    ),
    (
        "gather without descriptors",
        lambda: copy(sbuf((4, 4)), rows(), dge_mode=none),
        "trn2",
        "dma_copy: dge_mode.none has no run-time addresses",
    ),
    (
        "register without descriptors",
        lambda: copy(
            hbm((4, 4)).ap([[4, 1], [1, 4]], scalar_offset=nisa.register_alloc(1)),
            t(1, 4),
            dge_mode=none,
        ),
        "trn2",
        "dma_copy: dge_mode.none has no run-time addresses",
    ),
    (
        "packed cast",
        lambda: copy(hbm((4, 4), X4), t(4, 4, dtype="uint32")),
        "trn3",
        f"dma_copy: a packed type is not cast: uint32 to {X4}",
    ),
    (
        "priority of 4",
        lambda: copy(hbm((4, 4)), t(4, 4), priority=4),
        "trn3",
        "dma_copy: `priority` 4; 0 to 3",
    ),
    (
        "a list as index",
        lambda: copy(sbuf((4, 4)), rows([0, 1, 2, 3])),
        "trn2",
        r"dma_copy: `vector_offset` is \[0, 1, 2, 3\] and must be an SBUF tensor",
    ),
    (
        "index in HBM",
        lambda: copy(sbuf((4, 4)), rows(hbm((4, 1), "uint32"))),
        "trn2",
        "dma_copy: `vector_offset` is in SHARED_HBM and must be in SBUF",
    ),
    (
        "16-bit index",
        lambda: copy(sbuf((4, 4)), rows(index(4, dtype="uint16"))),
        "trn2",
        "dma_copy: `vector_offset` is uint16; use uint32 or int32",
    ),
    (
        "16-bit index of a scatter",
        lambda: copy(rows(index(4, dtype="uint16")), t(4, 4)),
        "trn2",
        "dma_copy: `vector_offset` is uint16; use uint32 or int32",
    ),
    (
        "too few indices",
        lambda: copy(sbuf((4, 4)), rows(index(3))),
        "trn2",
        "dma_copy: `vector_offset` has 3 indices for 4 rows",
    ),
    (
        "undefined index",
        lambda: copy(sbuf((4, 4)), rows(sbuf((4, 1), "uint32"))),
        "trn2",
        "dma_copy: `vector_offset` comes from memory that nothing wrote",
    ),
    (
        "row beyond the end",
        lambda: copy(sbuf((4, 4)), rows(index(4, value=19), offset=4)),
        "trn2",
        "dma_copy: a run-time row reaches element 83 of 80",
    ),
]

TRANSPOSES: list[Case] = [
    (
        "one dimension",
        lambda: turn(sbuf((4, 1)), hbm((4,))),
        "trn2",
        "dma_transpose: `src` has 1 dimensions; 2, 3 or 4",
    ),
    (
        "indirect on gen2",
        lambda: turn(sbuf((4, 16), BF), rows(count=16, dtype=BF)),
        "trn1",
        "an indirect dma_transpose needs gen3",
    ),
    (
        "indirect by hwdge",
        lambda: turn(sbuf((4, 16), BF), rows(count=16, dtype=BF), dge_mode=hwdge),
        "trn2",
        "dma_transpose: hwdge resolves no per-partition index",
    ),
    (
        "indirect of 4 bytes",
        lambda: turn(sbuf((4, 16)), rows(count=16)),
        "trn2",
        r"dma_transpose: `src` \[16, 4\] float32 does not fit an indirect transpose",
    ),
    (
        "indirect of 8 rows",
        lambda: turn(sbuf((4, 8), BF), rows(count=8, dtype=BF)),
        "trn2",
        r"dma_transpose: `src` \[8, 4\] bfloat16 does not fit an indirect transpose",
    ),
    (
        "signed index",
        lambda: turn(sbuf((4, 16), BF), rows(index(16, dtype="int32"), 16, dtype=BF)),
        "trn2",
        "dma_transpose: `vector_offset` is int32 and must be uint32",
    ),
    (
        "direct by swdge",
        lambda: turn(sbuf((4, 8)), t(8, 4), dge_mode=swdge),
        "trn2",
        "dma_transpose: a direct transpose is hwdge or unknown, not swdge",
    ),
]

SUMS: list[Case] = [
    ("scales", lambda: total([t(4, 4)], scales=[0.5]), "trn2", r"dma_compute: `scales` \[0.5\]"),
    ("no source", lambda: total([]), "trn2", "dma_compute: `srcs` has 0 tensors; 1 to 16"),
    (
        "17 sources",
        lambda: total([t(4, 4)] * 17),
        "trn2",
        "dma_compute: `srcs` has 17 tensors; 1 to 16",
    ),
    (
        "element counts",
        lambda: total([t(4, 4), t(4, 5)]),
        "trn2",
        r"dma_compute: `dst` has 16 elements, `srcs` have \[16, 20\]",
    ),
    (
        "three gathers",
        lambda: total([rows(), t(4, 4), t(4, 4)]),
        "trn2",
        "dma_compute: a read-modify-write takes 2 `srcs` and unique indices, not 3",
    ),
    (
        "repeated indices",
        lambda: total([rows(), t(4, 4)], unique_indices=False),
        "trn2",
        "dma_compute: a read-modify-write .* unique_indices=False",
    ),
    (
        "16-bit index",
        lambda: total([rows(index(4, dtype="uint16")), t(4, 4)]),
        "trn2",
        "dma_compute: `vector_offset` is uint16",
    ),
    (
        "packed type",
        lambda: nisa.dma_compute(hbm((4, 4), X4), [sbuf((4, 4), X4)], nl.add),
        "trn3",
        f"dma_compute: a packed type is not summed: {X4}",
    ),
    (
        "an integer as oob_mode",
        lambda: total([t(4, 4)], oob_mode=1),
        "trn2",
        "dma_compute: `oob_mode` is 1",
    ),
]


CONTROL: list[Case] = [
    (
        "unset register",
        lambda: nisa.register_move(nisa.register_alloc(), nisa.register_alloc()),
        "trn2",
        "register_move: a register is read before anything was moved or loaded into it",
    ),
    (
        "register from PSUM",
        lambda: nisa.register_load(nisa.register_alloc(), p(1, 1)),
        "trn2",
        "register_load: `src` is in PSUM",
    ),
    (
        "register of undefined memory",
        lambda: nisa.register_load(nisa.register_alloc(), sbuf((1, 1), "int32")),
        "trn2",
        "register_load: a register is loaded from memory that nothing wrote",
    ),
    (
        "register into a tile",
        lambda: nisa.register_store(sbuf((1, 2), "int32"), nisa.register_alloc(3)),
        "trn2",
        r"register_store: `dst` has shape \[1, 2\]; a register holds one element",
    ),
    (
        "barrier of one",
        lambda: nisa.core_barrier(hbm((4, 4)), (0,)),
        "trn2",
        r"core_barrier: `cores` \(0,\): only \(0, 1\)",
    ),
    (
        "barrier on SBUF",
        lambda: nisa.core_barrier(t(4, 4), (0, 1)),
        "trn2",
        "core_barrier: `data` is in SBUF and must be in SHARED_HBM",
    ),
    (
        "barrier on an integer",
        lambda: nisa.core_barrier(hbm((4, 4)), (0, 1), engine=3),
        "trn2",
        "core_barrier: `engine` is 3",
    ),
    (
        "sent shape",
        lambda: nisa.sendrecv(t(4, 4), sbuf((4, 5)), 1, 1, 0),
        "trn2",
        r"sendrecv: `src` .*\[4, 4\].* and `dst` .*\[4, 5\].* differ in shape or type",
    ),
    (
        "an integer as dma_engine",
        lambda: nisa.sendrecv(t(4, 4), sbuf((4, 4)), 1, 1, 0, dma_engine=2),
        "trn2",
        "sendrecv: `dma_engine` is 2",
    ),
    (
        "shuffled type",
        lambda: nisa.nc_stream_shuffle(t(32, 4, dtype=BF), t(32, 4), [0] * 32),
        "trn2",
        "nc_stream_shuffle: `src` .*float32.* and `dst` .*bfloat16.* differ",
    ),
    (
        "shuffle of 64 from 32",
        lambda: nisa.nc_stream_shuffle(sbuf((64, 4)), t(64, 4)[32:64], [0] * 32),
        "trn2",
        "nc_stream_shuffle: `src` starts at partition 32; a shuffle of 64 starts at a multiple",
    ),
]

CASES = COPIES + TRANSPOSES + SUMS + CONTROL


@pytest.mark.parametrize(
    ("body", "target", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(body: Callable[[], Any], target: str, words: str) -> None:
    refuses(body, target, words)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1024), (BF, 512), ("uint8", 256)])
def test_a_swap_by_gpsimd_moves_so_many_bytes_of_a_partition(dtype: str, limit: int) -> None:
    def kernel(extra: int) -> None:
        tile = t(1, limit // dtypes.as_dtype(dtype).itemsize + extra, dtype=dtype)
        other, peer = sbuf(tile.shape, dtype), 1 - nl.program_id(0)
        nisa.sendrecv(tile, other, peer, peer, 0, dma_engine=nisa.dma_engine.gpsimd_dma)

    run(kernel, 0, cores=2)
    with pytest.raises(HardwareLimit, match=f"sendrecv: `src` has .* up to {limit} of {dtype}"):
        run(kernel, 1, cores=2)


def test_a_register_has_no_value_without_arithmetic() -> None:
    def kernel() -> None:
        nisa.register_load(nisa.register_alloc(), t(1, 1, dtype="int32"))

    quiet = nkisim.Options(arithmetic=False, check_python=False)
    with pytest.raises(HardwareLimit, match=r"register_load: .* while arithmetic is off"):
        run(kernel, options=quiet)


def test_an_index_is_checked_without_arithmetic_too() -> None:
    def kernel() -> None:
        nisa.dma_copy(sbuf((4, 4)), rows(index(3)))

    quiet = nkisim.Options(arithmetic=False, check_python=False)
    with pytest.raises(HardwareLimit, match="`vector_offset` has 3 indices for 4 rows"):
        run(kernel, options=quiet)


def test_the_simulator_names_the_package_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(NkiSimError, match="package ml_dtypes") as caught:
        runpy.run_path(dtypes.__file__)
    assert 'pip install "ndtrain[nkisim]"' in caught.value.help

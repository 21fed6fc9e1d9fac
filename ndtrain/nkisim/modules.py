"""Puts the public modules together and, on request, into `sys.modules` as `nki`."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ndtrain.nkisim import (
    collectives,
    dtypes,
    enums,
    errors,
    isa_activation,
    isa_control,
    isa_dma,
    isa_elementwise,
    isa_matmul,
    isa_reduce,
    isa_select,
    language,
    nki,
    objects,
    ops,
    registers,
    spaces,
    tensor,
    tile_size,
    trace,
)


def _module(name: str, names: dict[str, Any]) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(names)
    made.__file__ = __file__
    return made


@cache
def build() -> dict[str, types.ModuleType]:
    """The modules by the name under which a kernel imports them."""
    nl = _module("nki.language", _language())
    nisa = _module("nki.isa", _isa())
    constants = _module("nki.isa.constants", {n: getattr(enums, n) for n in _ENUMS})
    typing = _module("nki.typing", {"tensor": tensor.NkiTensor})
    cc = _module("nki.collectives", {n: getattr(collectives, n) for n in _COLLECTIVES})
    root = _module("nki", {"jit": nki.jit, "simulate": nki.simulate, "language": nl,
                          "isa": nisa, "dtype": dtypes.DType})  # fmt: skip
    root.__path__ = []
    nisa.__path__ = []
    nisa.constants = constants
    root.collectives, root.typing = cc, typing
    return {
        "nki": root, "nki.language": nl, "nki.isa": nisa, "nki.isa.constants": constants,
        "nki.collectives": cc, "nki.typing": typing,
    }  # fmt: skip


_COLLECTIVES = (
    "ReplicaGroup", "all_gather", "all_reduce", "all_to_all", "collective_permute",
    "collective_permute_implicit", "collective_permute_implicit_current_processing_rank_id",
    "collective_permute_implicit_reduce", "rank_id", "reduce_scatter",
)  # fmt: skip
_ENUMS = ("engine", "reduce_cmd", "dge_mode", "oob_mode", "matmul_perf_mode", "nc_version",
          "dma_engine")  # fmt: skip
_LANGUAGE = (
    "ndarray", "full", "zeros", "ones", "zeros_like", "empty_like", "load", "store",
    "load_transpose2d", "ds", "affine_range", "sequential_range", "static_range", "dynamic_range",
    "fori_loop", "while_loop", "no_reorder", "program_id", "num_programs", "program_ndim",
    "shared_constant", "shared_identity_matrix", "device_print", "expand_dims", "broadcast_to",
    "transpose", "matmul", "sum", "max", "min", "prod", "all", "mean", "var", "softmax", "where",
)  # fmt: skip


def _language() -> dict[str, Any]:
    names: dict[str, Any] = dict(ops.ALL)
    names |= {str(d): d for d in dtypes.ALL} | {"bool_": dtypes.bool_}
    names |= {n: getattr(language, n) for n in _LANGUAGE}
    names |= {
        n: getattr(spaces, n)
        for n in ("sbuf", "psum", "hbm", "private_hbm", "shared_hbm", "MemoryRegion", "is_hbm",
                  "is_on_chip", "is_psum", "is_sbuf")
    }  # fmt: skip
    names |= {"NKIObject": objects.NKIObject, "NkiTensor": tensor.NkiTensor}
    return names | {"tile_size": tile_size.TileSize()}


def _isa() -> dict[str, Any]:
    names: dict[str, Any] = {n: getattr(enums, n) for n in _ENUMS}
    names |= {n: getattr(enums, f"{n}") for n in
              ("tensor_engine", "vector_engine", "scalar_engine", "gpsimd_engine",
               "unknown_engine")}  # fmt: skip
    for module in (isa_activation, isa_control, isa_dma, isa_elementwise, isa_matmul, isa_reduce,
                   isa_select):  # fmt: skip
        for name, value in vars(module).items():
            if callable(value) and getattr(value, "__module__", "") == module.__name__:
                if name in _INSTRUCTIONS:
                    names[name] = value
    names |= {"NkiInstruction": trace.Instruction, "NkiValidationError": errors.NkiSimError}
    return names | {"VirtualRegister": registers.VirtualRegister}


_INSTRUCTIONS = frozenset((
    "activation", "activation_reduce", "affine_select", "core_barrier", "dma_compute", "dma_copy",
    "dma_transpose", "get_nc_sub_version", "get_nc_version", "iota", "memset", "nc_matmul",
    "nc_stream_shuffle", "nc_transpose", "range_select", "reciprocal", "register_alloc",
    "register_load", "register_move", "register_store", "scalar_tensor_tensor", "select_reduce",
    "sendrecv", "tensor_copy", "tensor_copy_predicated", "tensor_partition_reduce",
    "tensor_reduce", "tensor_scalar", "tensor_scalar_cumulative", "tensor_scalar_reduce",
    "tensor_tensor", "tensor_tensor_scan",
))  # fmt: skip


def installed() -> Path | None:
    """Where a real `nki` is installed; the placeholder of that name on PyPI is none."""
    if "nki" in sys.modules and sys.modules["nki"] is not build()["nki"]:
        found = getattr(sys.modules["nki"], "__file__", None)
        return Path(found) if found else None
    if "nki" in sys.modules:
        return None
    spec = importlib.util.find_spec("nki")
    if spec is None or not spec.submodule_search_locations:
        return None
    for folder in map(Path, spec.submodule_search_locations):
        if any((folder / name).exists() for name in ("isa", "isa.py", "language")):
            return folder
    return None


@contextmanager
def as_nki(*, shadow: bool = False) -> Iterator[types.ModuleType]:
    """Inside, `import nki` (and its submodules) means the simulator.

    Modules imported inside keep the simulator afterwards. Raises NkiSimError when a real nki is
    installed, unless `shadow` says that the simulator is wanted in its place.
    """
    real = installed()
    if real is not None and not shadow:
        raise errors.NkiSimError(
            f"a real nki is installed at {real}",
            help="use it, or ask for the simulator with as_nki(shadow=True)",
        )
    modules = build()
    saved = {n: m for n, m in sys.modules.items() if n == "nki" or n.startswith("nki.")}
    for name in saved:
        del sys.modules[name]
    sys.modules.update(modules)
    try:
        yield modules["nki"]
    finally:
        for name in [n for n in sys.modules if n == "nki" or n.startswith("nki.")]:
            del sys.modules[name]
        sys.modules.update(saved)

"""Puts the public modules together and, on request, into `sys.modules` as `nki`."""

from __future__ import annotations

import functools
import importlib.metadata
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
    isa_gather,
    isa_gen4,
    isa_matmul,
    isa_reduce,
    isa_select,
    isa_statistics,
    language,
    launch,
    legacy,
    nki,
    objects,
    ops,
    parameter_types,
    public_names,
    registers,
    ring_permute,
    spaces,
    tensor,
    tile_size,
    trace,
)

_INSTRUCTION_FILES = (
    isa_activation, isa_control, isa_dma, isa_elementwise, isa_gather, isa_gen4, isa_matmul,
    isa_reduce, isa_select, isa_statistics,
)  # fmt: skip
_CPU_SIMULATOR = "nki_cpu_simulator"


def _sources(module: str) -> dict[str, Any]:
    """Everything the simulator has for `module`, by public name."""
    if module == "nki":
        return {"jit": nki.jit, "simulate": nki.simulate, "dtype": dtypes.DType,
                "language": None, "isa": None, "collectives": None, "typing": None}  # fmt: skip
    if module == "nki.typing":
        return {"tensor": parameter_types.tensor, "mutable_tensor": parameter_types.mutable_tensor}
    if module == "nki.language.NkiTensor":
        names = set(dir(tensor.NkiTensor)) - {"indirect"}
        return {n: getattr(tensor.NkiTensor, n, None) for n in names}
    if module == "nki.isa.constants":
        return vars(enums)
    if module == "nki.collectives":
        return vars(collectives) | vars(ring_permute)
    if module == "nki.isa":
        found = dict(vars(enums))
        for file in _INSTRUCTION_FILES:
            own = vars(file).items()
            found |= {n: v for n, v in own if getattr(v, "__module__", "") == file.__name__}
        return found | {
            "NkiInstruction": trace.Instruction, "NkiValidationError": errors.NkiSimError,
            "VirtualRegister": registers.VirtualRegister,
        }  # fmt: skip
    return _language()


def _language() -> dict[str, Any]:
    found = {n: v for n, v in vars(language).items() if not n.startswith("_")} | dict(ops.ALL)
    found |= {str(d): d for d in dtypes.ALL} | {"bool_": dtypes.bool_}
    found |= dict(vars(spaces))
    return found | {
        "NKIObject": objects.NKIObject, "NkiTensor": tensor.NkiTensor, "DType": dtypes.DType,
        "tile_size": tile_size.TileSize(),
    }  # fmt: skip


def implemented(module: str) -> set[str]:
    """The public names of `module` that work."""
    return set(_sources(module)) & {
        *public_names.PUBLIC.get(module, ()), *public_names.BEYOND.get(module, ()),
    }  # fmt: skip


def _module(name: str, version: str) -> types.ModuleType:
    made = types.ModuleType(name, f"{name} {version}, simulated by ndtrain.nkisim.")
    made.__file__ = __file__
    have = _sources(name)
    for public in (*public_names.PUBLIC.get(name, ()), *public_names.BEYOND.get(name, ())):
        if not public_names.in_version(name, public, version):
            continue
        value = have[public] if public in have else public_names.placeholder(name, public)
        if version == "0.2" and callable(value) and not isinstance(value, (type, ops.Op)):
            value = legacy.adapt(public, value)
        setattr(made, public, value)
    if version == "0.2":
        made.__getattr__ = functools.partial(_absent, name)  # type: ignore[method-assign]
    return made


def _absent(module: str, name: str) -> Any:
    if not name.startswith("__") and name in public_names.PUBLIC.get(module, ()):
        raise errors.missing_in_0_2(module, name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


@cache
def build(version: str = "0.6") -> dict[str, types.ModuleType]:
    """The modules of NKI `version` by the name under which a kernel imports them."""
    if version not in public_names.VERSIONS:
        raise errors.ApiError(
            f"NKI {version} is not simulated", help=f"use {public_names.VERSIONS}"
        )
    inner = ("language", "isa", "collectives", "typing") if version != "0.2" else (
        "language", "isa", "collectives"
    )  # fmt: skip
    made = {f"nki.{n}": _module(f"nki.{n}", version) for n in inner}
    made["nki.isa.constants"] = _module("nki.isa.constants", version)
    root = _module("nki", version)
    for name in inner:
        setattr(root, name, made[f"nki.{name}"])
    made["nki.isa"].constants = made["nki.isa.constants"]  # type: ignore[attr-defined]
    made["nki.isa"].__path__ = []
    root.__path__ = []
    root.__version__ = version  # type: ignore[attr-defined]
    if version == "0.2":
        root.jit = functools.partial(_jit_0_2)  # type: ignore[attr-defined]
    return {"nki": root, **made}


def _jit_0_2(func: Any = None, mode: str = "auto", **kwargs: Any) -> Any:
    """NKI 0.2's `jit`, which still took a mode."""
    if func is None:
        return functools.partial(_jit_0_2, mode=mode, **kwargs)
    return launch.Kernel(func, api="0.2")


def cpu_simulator() -> dict[str, types.ModuleType]:
    """Modules under the names that nki-library's test suite imports in its simulation mode."""
    modules = build()
    root = types.ModuleType(_CPU_SIMULATOR)
    inner = types.ModuleType(f"{_CPU_SIMULATOR}.nki")
    inner.__dict__.update({k: v for k, v in vars(modules["nki"]).items() if k != "__name__"})
    inner.cpu_simulate = nki.cpu_simulate  # type: ignore[attr-defined]
    isa, nl = modules["nki.isa"], modules["nki.language"]
    compiler = types.ModuleType("nki.compiler")
    found = {
        "": root, ".nki": inner, ".nki.language": nl, ".nki.isa": isa,
        ".nki.isa.constants": isa.constants, ".nki.typing": modules["nki.typing"],
        ".nki.collectives": modules["nki.collectives"], ".nki.compiler": compiler,
        ".nki.builtin": types.ModuleType("nki.builtin"), ".nki.language.dtypes": nl,
        ".nki.tensor": _tensor_module(),
    }  # fmt: skip
    for name, module in found.items():
        if name.count(".") == 2:
            setattr(inner, name.rsplit(".", 1)[1], module)
    root.nki = inner  # type: ignore[attr-defined]
    for package in (root, inner, isa, nl):
        package.__path__ = []
    return {_CPU_SIMULATOR + name: module for name, module in found.items()}


def _tensor_module() -> types.ModuleType:
    made = types.ModuleType("nki.tensor")
    made.NkiTensor = tensor.NkiTensor  # type: ignore[attr-defined]
    return made


def installed() -> tuple[Path, str] | None:
    """Where a real `nki` is installed and its version; PyPI's placeholder of that name is none."""
    ours = {id(build(v)["nki"]) for v in public_names.VERSIONS}
    loaded = sys.modules.get("nki")
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return None if id(loaded) in ours or not file else (Path(file).parent, _version())
    spec = importlib.util.find_spec("nki")
    for folder in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
        if any((folder / name).exists() for name in ("isa", "isa.py", "language")):
            return folder, _version()
    return None


def _version() -> str:
    try:
        return importlib.metadata.version("nki")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@contextmanager
def as_nki(
    version: str = "0.6", *, shadow: bool = False, fresh: str = ""
) -> Iterator[types.ModuleType]:
    """Inside, `import nki` (and its submodules) means the simulator.

    version: "0.2" offers only what that release has, with its argument lists.
    shadow: needed where a real nki is installed, which is never replaced unasked (NkiSimError).
    fresh: a package, such as "ndtrain.kernels", whose modules are imported anew inside and
    forgotten afterwards. Other modules that are imported inside keep the simulator.
    """
    real = installed()
    if real is not None and not shadow:
        raise errors.NkiSimError(
            f"a real nki {real[1]} is installed at {real[0]}; the simulator has"
            f" {public_names.VERSIONS[-1]}",
            help="use it, or ask for the simulator with as_nki(shadow=True)",
        )
    saved = _take("nki") | (_take(fresh) if fresh else {})
    sys.modules.update(build(version))
    try:
        yield sys.modules["nki"]
    finally:
        for package in filter(None, ("nki", fresh)):
            _take(package)
        sys.modules.update(saved)


def _take(package: str) -> dict[str, types.ModuleType]:
    """Remove `package` and its submodules from sys.modules and return them."""
    names = [n for n in sys.modules if n == package or n.startswith(package + ".")]
    return {n: sys.modules.pop(n) for n in names}


@contextmanager
def as_cpu_simulator() -> Iterator[None]:
    """Inside, `nki_cpu_simulator` (the package nki-library's tests look for) is the simulator."""
    saved = _take(_CPU_SIMULATOR)
    sys.modules.update(cpu_simulator())
    try:
        yield
    finally:
        _take(_CPU_SIMULATOR)
        sys.modules.update(saved)

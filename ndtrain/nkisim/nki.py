"""The top-level module `nki`: `jit`, `simulate`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ndtrain.nkisim.errors import ApiError
from ndtrain.nkisim.launch import Kernel, run
from ndtrain.nkisim.machine import Options

_GENERATION_VARIABLE = "NKI_NC_VERSION"  # set by nki-library's test suite
_COMPILER_ARGUMENTS = {"mode", "debug_kernel", "show_compiler_tb", "experimental_flags"}
_PRECISE_VARIABLE = "NKI_PRECISE_FP"


def jit(fn: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """`@nki.jit` and `@nki.jit()`; arguments for the compiler alone change nothing here."""
    unknown = set(kwargs) - _COMPILER_ARGUMENTS
    if unknown:
        raise ApiError(
            f"nki.jit has no argument {', '.join(sorted(unknown))}",
            help="the target comes from NEURON_PLATFORM_TARGET_OVERRIDE, the cores from kernel[n]",
        )
    if fn is None:
        return jit
    return fn if isinstance(fn, Kernel) else Kernel(fn)


def simulate(kernel: Any) -> Callable[..., Any]:
    """A callable that runs `kernel` on the simulator and returns arrays."""
    wrapped = kernel if isinstance(kernel, Kernel) else Kernel(kernel)

    def call(*args: Any, **kwargs: Any) -> Any:
        return run(wrapped, *args, cores=wrapped.grid, options=_options(), **kwargs).outputs

    return call


def _options() -> Options:
    return Options(precise=os.environ.get(_PRECISE_VARIABLE, "1") != "0")


class _CpuSimulated:
    """`cpu_simulate(kernel)[lnc](**inputs)`, as nki-library's tests call their simulator."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel if isinstance(kernel, Kernel) else Kernel(kernel)

    def __getitem__(self, cores: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            target = os.environ.get(_GENERATION_VARIABLE)
            return run(
                self._kernel, *args, cores=cores, target=target, options=_options(), **kwargs
            ).outputs

        return call


def cpu_simulate(kernel: Any) -> _CpuSimulated:
    return _CpuSimulated(kernel)

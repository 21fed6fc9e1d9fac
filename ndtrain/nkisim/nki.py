"""The top-level module `nki`: `jit`, `simulate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ndtrain.nkisim.errors import ApiError
from ndtrain.nkisim.machine import Options
from ndtrain.nkisim.program import Kernel, run


def jit(fn: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """`@nki.jit` and `@nki.jit()`."""
    if kwargs:
        raise ApiError(
            f"nki.jit has no argument {', '.join(kwargs)}",
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
    import os

    return Options(precise=os.environ.get("NKI_PRECISE_FP", "1") != "0")

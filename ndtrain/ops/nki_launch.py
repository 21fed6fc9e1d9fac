"""Launches NKI kernels on PyTorch tensors: on the NeuronCore, or in its simulator for CPU tensors.

    launch = Simulator("trn1")                      # or NeuronCore()
    kernel = launch.load("ndtrain.kernels", "attention_forward", "attention_forward")
    out, lse = launch(kernel, q, k, v, None, scale)

Both take and give tensors, so nothing above knows which one runs. The simulator needs the extra
`nkisim`; the NeuronCore needs AWS's own packages, not the empty ones that PyPI serves.
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ndtrain.core.errors import UserError

Kernel = Callable[..., Any]


class Launch(Protocol):
    """Where kernels run."""

    def load(self, package: str, module: str, function: str) -> Kernel:
        """`function` of `package.module`, imported with the `nki` that belongs to this place."""
        ...

    def __call__(self, kernel: Kernel, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        """The kernel's outputs, new tensors. Tensors are HBM, all else is passed on."""
        ...


class Simulator:
    """`ndtrain.nkisim`: the kernel's own numbers on a CPU, at the speed of a simulation."""

    def __init__(self, target: str) -> None:
        self._target = target

    def load(self, package: str, module: str, function: str) -> Kernel:
        return _load_simulated(self._target, package, module, function)

    def __call__(self, kernel: Kernel, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        from ndtrain import nkisim  # not at the top: it cannot be imported without ml_dtypes

        run = nkisim.run(
            kernel,
            *map(_to_numpy, arguments),
            target=self._target,
            **{name: _to_numpy(value) for name, value in options.items()},
        )
        return tuple(map(_to_torch, run.outputs))


class NeuronCore:
    """A kernel compiled for the device that the tensors are on.

    Native PyTorch (`torch_neuronx.wrap_nki`) or torch-xla, where a kernel is called as it is; never
    run on hardware. Two physical cores share a launch where they form one logical core (LNC2).
    """

    def load(self, package: str, module: str, function: str) -> Kernel:
        return getattr(importlib.import_module(f"{package}.{module}"), function)

    def __call__(self, kernel: Kernel, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        wrap = _native_wrapper()
        launched: Any = wrap(kernel) if wrap else kernel
        if cores_per_logical_core(native=wrap is not None) == 2:
            launched = launched[2]
        # A kernel reads rows of HBM: a view, such as v of a fused QKV, is made dense.
        return tuple(launched(*map(_dense, arguments), **options))


def cores_per_logical_core(native: bool) -> int:
    """LNC of this process; 2 by default on trn2 and later, where native PyTorch runs, else 1."""
    return int(os.environ.get("NEURON_LOGICAL_NC_CONFIG", "2" if native else "1"))


def require_simulator(setting: str) -> None:
    """Raises UserError where the simulator cannot run."""
    if importlib.util.find_spec("ml_dtypes") is None:
        raise UserError(
            f"{setting} needs the package ml_dtypes",
            "ops.attention",
            "pip install 'ndtrain[nkisim]', or use ops.attention=auto",
        )


def is_installed(module: str) -> bool:
    """Whether it can be imported; PyPI's placeholders have a package's name and nothing in it."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def require_module(setting: str, module: str) -> None:
    """Raises UserError where a package of Neuron is missing or is PyPI's placeholder."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{setting} needs `{module}`: {error}",
            "ops.attention",
            "install the Neuron packages from AWS's index (PyPI's are empty), or use "
            "ops.attention=nki-sim on a CPU",
        ) from None


def _native_wrapper() -> Callable[[Kernel], Any] | None:
    """`wrap_nki` of the native stack; the torch-xla builds of torch_neuronx do not have it."""
    try:
        module = importlib.import_module("torch_neuronx")
    except ImportError:
        return None
    return getattr(module, "wrap_nki", None)


@functools.cache
def _load_simulated(target: str, package: str, module: str, function: str) -> Kernel:
    from ndtrain import nkisim

    versions = importlib.import_module("ndtrain.kernels").NKI_VERSIONS
    before = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE")
    # nki-library reads the sizes of its target while it is imported.
    os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = target
    try:
        with nkisim.as_nki(versions[target], fresh=package):
            return getattr(importlib.import_module(f"{package}.{module}"), function)
    finally:
        if before is None:
            del os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"]
        else:
            os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = before


def _dense(value: Any) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value


def _to_numpy(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    x = value.detach().contiguous()
    if x.dtype == torch.bfloat16:  # NumPy has no bf16 of its own: the same 16 bits by another name
        import ml_dtypes

        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()


def _to_torch(x: np.ndarray) -> Tensor:
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(np.ascontiguousarray(x).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(x))

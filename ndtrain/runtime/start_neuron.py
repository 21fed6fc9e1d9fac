"""Starts a rank on native PyTorch for Neuron, trn2 and later: guards, then the device's streams.

    require_neuron(overlaps=True)                    # before the process group is made
    runtime = start_neuron(tp=4, dp=16, num_kv_heads=8)

There the program runs eagerly: the host issues, the device follows. Each operation is compiled when
it first comes, and kept for later processes (`native_cache.py`). Written from public
documentation of Neuron SDK 2.33 (torch-neuronx 2.13 and 2.14, a beta); never run on hardware.
"""

import importlib
import os
from collections.abc import Mapping
from typing import Any

import torch

import ndtrain
from ndtrain.core.errors import UserError
from ndtrain.runtime.device_runtime import device_runtime
from ndtrain.runtime.device_transport import DeviceTransport
from ndtrain.runtime.first_runs import FirstRuns
from ndtrain.runtime.gloo import GlooTransport
from ndtrain.runtime.graph_records import GraphRecords
from ndtrain.runtime.group import check_group
from ndtrain.runtime.host_collectives import ByDevice
from ndtrain.runtime.native_cache import NativeCache, find_metrics, native_folder
from ndtrain.runtime.neuron_environment import missing_variables
from ndtrain.runtime.neuron_packages import installed, problem
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.transport import Transport

WHERE = "runtime.device=neuron"
# Tensors of the host go through gloo, the device's own through its collectives.
BACKEND = "cpu:gloo,neuron:neuron"
# Variables that change what is compiled, besides the flags (Neuron SDK, torch/reference/env-vars).
_SHAPING = (
    "NEURON_LOGICAL_NC_CONFIG",
    "NEURON_PLATFORM_TARGET_OVERRIDE",
    "NEURON_RT_VIRTUAL_CORE_SIZE",
    "NEURON_USE_SPLIT_ALLGATHER",
    "NEURON_USE_SPLIT_REDUCE_SCATTER",
    "TORCH_NEURONX_ENABLE_NKI_SDPA",
)


def require_neuron(overlaps: bool) -> Any:
    """The device's module. overlaps: whether collectives are to run beside compute.

    Touches no device: the process group has to be the first to. Raises UserError for packages that
    are not the native stack's, and for an environment in which collectives would silently not
    overlap.
    """
    # Its packages are the same on trn2 and later.
    wrong = problem(installed(), "trn2")
    if wrong is not None:
        raise UserError(wrong[0], WHERE, wrong[1])
    module = _module()
    missing = missing_variables(os.environ) if overlaps else {}
    if missing:
        raise UserError(
            f"collectives would silently not overlap without {' and '.join(missing)}",
            "the environment",
            f"set {' '.join(f'{name}={value}' for name, value in missing.items())} before the"
            " program starts, or overlap.mode=off and overlap.data_parallel=off",
        )
    return module


def _module() -> Any:
    """Importing torch_neuronx registers the device and its process groups."""
    try:
        importlib.import_module("torch_neuronx")
        return torch.get_device_module("neuron")
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"torch-neuronx is installed and does not give torch a device: {error}",
            f"torch {torch.__version__}",
            "`ndtrain doctor` lists the packages; see the AWS Neuron setup guide",
        ) from None


def start_neuron(
    tp: int, dp: int, num_kv_heads: int, key: Mapping[str, str] | None = None
) -> Runtime:
    """Collective over the world, whose group is of BACKEND. Raises UserError as the guards do.

    key: what of the configuration shapes the graphs, by which a miss of the cache is explained.
    """
    module = require_neuron(overlaps=False)
    check_group(tp * dp, "neuron")
    if module.device_count() < 1:
        help_text = "`neuron-ls` lists devices and the processes that hold them"
        raise UserError("native PyTorch finds no Neuron device", WHERE, help_text)
    device = torch.device("neuron")
    first_runs = watch_first_runs(module, key or {})
    return device_runtime(device, module, _transport, tp, dp, num_kv_heads, about(), first_runs)


def watch_first_runs(module: Any, key: Mapping[str, str]) -> FirstRuns:
    """The first rank of a node keeps the records: the folder is the node's, and so are they."""
    folder, records = native_folder(os.environ), None
    if folder is not None and os.environ.get("LOCAL_RANK", "0") == "0":
        packages = installed(("torch", "torch-neuronx", "neuronx-cc", "nki"))
        variables = {name: os.environ[name] for name in _SHAPING if name in os.environ}
        flags = os.environ.get("NEURON_CC_FLAGS", "")
        own = {"ndtrain": ndtrain.__version__, **packages, "flags": flags, **variables}
        records = GraphRecords(folder, {**own, **key})
    return FirstRuns(NativeCache(folder, find_metrics()), records, module.synchronize)


def _transport(lane: str) -> Transport:
    return ByDevice(GlooTransport(lane), DeviceTransport(lane))


def about() -> str:
    version = installed(("torch-neuronx",))["torch-neuronx"]
    return (
        f"neuron: torch-neuronx {version}; active overlap means that collectives are issued on"
        " side streams, ordered by events: what ran beside what, only a profile of the device says"
    )

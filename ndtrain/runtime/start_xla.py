"""Starts a rank on torch-xla: the guards first, then device, mesh, transports.

    runtime = start_xla(tp=1, dp=1, num_kv_heads=8)     # with more ranks a group of them must exist

The world's group may be another library's, and of the backend xla, as neuronx-distributed makes it:
ours are of gloo in any case, for the host's tensors.

On a device that reaches other processes (Trainium) the step's collectives are in its graph. On
torch-xla's CPU device they are not: gloo carries them between graphs (`host_collectives.py`).
"""

import importlib.metadata
import os
from collections.abc import Mapping
from typing import Literal

import torch

import ndtrain
from ndtrain.core.errors import UserError
from ndtrain.core.spans import SpanRecorder
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.compilation import Lookup
from ndtrain.runtime.gloo import GlooTransport
from ndtrain.runtime.graph_cache import find_cache
from ndtrain.runtime.graph_records import GraphRecords
from ndtrain.runtime.group import check_group
from ndtrain.runtime.host_collectives import ByDevice, GlooBetweenGraphs
from ndtrain.runtime.mesh import Mesh, axis_lines
from ndtrain.runtime.neuron_packages import installed, problem
from ndtrain.runtime.runtime import Runtime, inline, num_kv_replicas
from ndtrain.runtime.xla import XlaTrace, XlaTransport, import_torch_xla, places_on

# PyPI serves packages without code under these names, torch-neuronx 1.0, libneuronxla 1.0 and
# neuronx-cc 1.0.post1; the first releases of the stack that torch-xla 2.9 belongs to.
OLDEST = {"torch-neuronx": (2, 9), "libneuronxla": (2, 2), "neuronx-cc": (2, 0)}
# Variables that change what torch-xla and Neuron's lowering make of a step, besides the flags.
_SHAPING = (
    "NEURON_CUSTOM_SILU",
    "NEURON_FUSE_SOFTMAX",
    "XLA_DISABLE_FUNCTIONALIZATION",
    "XLA_HLO_DEBUG",
    "XLA_IR_DEBUG",
)


def start_xla(tp: int, dp: int, num_kv_heads: int, key: Mapping[str, str] | None = None) -> Runtime:
    """Collective over the world. Raises UserError for an installation or a world that is not it.

    key: what of the configuration shapes the graphs; they are then kept for later processes.
    """
    neuron = neuron_packages()
    if "torch-neuronx" not in neuron:
        os.environ.setdefault("PJRT_DEVICE", "CPU")
    torch_xla = import_torch_xla()
    import torch_xla.runtime as xla_runtime

    size, replicas = tp * dp, num_kv_replicas(tp, num_kv_heads)
    is_cpu = xla_runtime.device_type() == "CPU"
    check_world(size, xla_runtime.world_size(), is_cpu)
    cuts_graphs = is_cpu and size > 1
    lookup = None if key is None else _lookup(neuron, key)
    mesh = Mesh.create(tp, dp, replicas, "gloo") if size > 1 else Mesh.place(0, 1, 1)
    lines = axis_lines(tp, dp, replicas)
    device_transport = GlooBetweenGraphs() if cuts_graphs else XlaTransport(lines)
    spans = SpanRecorder()
    spans.enabled = False  # the host's times while tracing are nobody's
    collectives = Collectives(ByDevice(GlooTransport("main"), device_transport), spans)
    streams = inline(collectives)
    flights = {"main": collectives.flight} if size > 1 else {}
    device = torch_xla.device()
    trace = XlaTrace(has_scopes=not cuts_graphs, lookup=lookup)
    about = _about(neuron, is_cpu, cuts_graphs)
    return Runtime(
        device,
        mesh,
        collectives,
        streams,
        streams,
        spans,
        flights,
        trace=trace,
        about=about,
        places=places_on(device, mesh),
    )


def _lookup(neuron: Mapping[str, str], key: Mapping[str, str]) -> Lookup | None:
    """Opens the cache of this rank; before any graph runs."""
    owner = xla_cache_owner(neuron)
    is_neuron = owner == "neuronx-cc"
    cache = find_cache(owner, int(os.environ.get("LOCAL_RANK", 0)), os.environ)
    if cache is None:
        return None
    versions = {"torch": torch.__version__, "ndtrain": ndtrain.__version__, **neuron}
    versions["torch-xla"] = importlib.metadata.version("torch_xla")
    variables = {name: os.environ[name] for name in _SHAPING if name in os.environ}
    flags = os.environ.get("NEURON_CC_FLAGS" if is_neuron else "XLA_FLAGS", "")
    # The graphs are the same on all ranks. What each rank keeps for itself it finds alone.
    rank = {} if is_neuron else {"rank": os.environ.get("RANK", "0")}
    return Lookup(
        cache, GraphRecords(cache.folder, {**versions, "flags": flags, **variables, **rank, **key})
    )


def xla_cache_owner(neuron: Mapping[str, str]) -> Literal["torch-xla", "neuronx-cc"]:
    """neuron: as `neuron_packages` gives it."""
    return "neuronx-cc" if "torch-neuronx" in neuron else "torch-xla"


def _about(neuron: Mapping[str, str], is_cpu: bool, cuts_graphs: bool) -> str:
    if not is_cpu:
        return f"xla: {', '.join(f'{name} {version}' for name, version in neuron.items())}"
    about = "xla: torch-xla's CPU device, which stands in for a Trainium"
    if cuts_graphs:
        about += "; it reaches no other process: gloo carries the collectives between its graphs"
    return about


def neuron_packages() -> Mapping[str, str]:
    """Versions of Neuron's packages that are installed.

    Raises UserError for a placeholder, and for packages that are not of one release of this stack.
    """
    found: dict[str, str] = {}
    for package, oldest in OLDEST.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < oldest:
            raise UserError(
                f"{package} {version} is PyPI's placeholder without code, or older than torch-xla",
                "runtime.device=xla",
                "install it from the package index in the AWS Neuron setup guide",
            )
        found[package] = version
    wrong = problem(installed(), "trn1") if "torch-neuronx" in found else None
    if wrong is not None:
        raise UserError(wrong[0], "runtime.device=xla", wrong[1])
    return found


def check_world(size: int, xla_size: int, is_cpu: bool) -> None:
    """size: ranks of the configuration; xla_size: devices that torch-xla's graphs can reach.

    With a world that is too small torch-xla's collectives return the local tensor without an error.
    """
    check_group(size, "xla")
    if xla_size != size and not (is_cpu and xla_size == 1):
        raise UserError(
            f"torch-xla reaches {xla_size} devices, the configuration has {size} ranks",
            "runtime.device=xla",
            "start with torchrun, one process a device",
        )

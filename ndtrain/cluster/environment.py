"""The environment of a job's ranks, derived from config and hardware, each variable with a reason.

    variables = environment(config, find_instance("trn1.32xlarge"), num_nodes=4)
    variables[0]        # Variable("FI_PROVIDER", "efa", "collectives between nodes go over EFA")

`cluster.environment` adds to it, replaces and removes (`NAME=` with nothing behind it). Written
from public documentation; nothing of it was tried on hardware. Sources: Neuron SDK 2.28 to 2.33,
archive/nxd-training/torch-neuron-envvars, neuron-runtime/configuration-guide, neuron-runtime/
explore/compute-comm-overlap, tools/neuron-explorer/environment-variables, torch/reference/env-vars,
neuronx-cc api-reference.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ndtrain.cluster.rank import RUNTIME_DEVICE
from ndtrain.cluster.variable_names import KNOWN, OWNED, WITHOUT_EFFECT
from ndtrain.config.checks import data_parallel
from ndtrain.config.load import fail
from ndtrain.config.overlapping import overlaps, overlaps_data, overlaps_tensor
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError
from ndtrain.core.suggest import nearest
from ndtrain.hardware.instances import Instance
from ndtrain.runtime import native_cache
from ndtrain.runtime.graph_cache import NEURON_DEFAULT
from ndtrain.runtime.neuron_environment import STREAM_VARIABLES

_KEY = "cluster.environment"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Whoever mistypes a known name hears of it. There are more variables than any list has: what is not
# nearly one of these, by difflib's ratio, is taken as it is.
_MISSPELT = 0.93
_LARGE, _SMALL = 65536, 4096  # bytes: the largest packet of a collective, and compute's default


class Variable(NamedTuple):
    name: str
    value: str
    reason: str


Rule = Callable[[Config, Instance, int], Iterator[Variable]]


def environment(
    config: Config, instance: Instance, num_nodes: int, origins: Mapping[str, str] | None = None
) -> list[Variable]:
    """Raises UserError or UserErrors for what is wrong in `cluster.environment`."""
    derived = {
        variable.name: variable for rule in _RULES for variable in rule(config, instance, num_nodes)
    }
    where = (origins or {}).get(_KEY, _KEY)
    errors: list[UserError] = []
    for entry in config.cluster.environment:
        try:
            name, value = _parsed(entry, instance, where)
        except UserError as error:
            errors.append(error)
            continue
        if value:
            derived[name] = Variable(name, value, f"{_KEY}, {where}")
        else:
            derived.pop(name, None)
    if errors:
        fail(errors)
    return list(derived.values())


def _parsed(entry: str, instance: Instance, where: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals or not _NAME.fullmatch(name) or not value.isprintable():
        help_text = "write NAME=VALUE, or NAME= to leave a variable out"
        raise UserError(f"`{entry}` is not a variable of the environment", where, help_text)
    if name in OWNED:
        raise UserError(f"`{name}` is not yours to set: {OWNED[name]}", where, "leave it out")
    if value and name in WITHOUT_EFFECT:
        reason, devices = WITHOUT_EFFECT[name]
        if instance.device is None or instance.device.name in devices:
            raise UserError(f"`{name}` has no effect on {instance.name}: {reason}", where)
    meant = None if name in KNOWN else nearest(name, KNOWN, _MISSPELT)
    if meant is not None:
        help_text = f"did you mean `{meant}`? If not, export it in the shell that calls sbatch"
        raise UserError(f"no program is known to read `{name}`", where, help_text)
    return name, value


def _efa(config: Config, instance: Instance, num_nodes: int) -> Iterator[Variable]:
    if instance.num_efa == 0 or num_nodes == 1:
        return
    yield Variable("FI_PROVIDER", "efa", "collectives between nodes go over EFA")
    yield Variable("FI_EFA_USE_DEVICE_RDMA", "1", "and straight into the device's memory")
    yield Variable("FI_EFA_FORK_SAFE", "1", "data is prepared in forked processes; kernels < 5.15")


def _compiler(config: Config, instance: Instance, num_nodes: int) -> Iterator[Variable]:
    if instance.device is None:
        return
    flags, reasons = ["--model-type=transformer", "--auto-cast=none"], ["fp32 stays fp32"]
    if _has_torch_xla(instance):
        # Of the program that torch-xla calls the compiler by, and no flag of the compiler.
        flags.append("--retry_failed_compilation")
        reasons.append("a failure is not kept in the cache")
        if config.train.recompute != "none":
            # Neuron SDK, activation_memory_reduction_developer_guide.
            flags.append("-O1")
            reasons.append("above it the compiler may merge recomputation with the forward")
    if instance.cores_per_device > 1:
        flags.append(f"--lnc={instance.cores_per_device}")
        reasons.append(f"a device is {instance.cores_per_device} cores")
    yield Variable("NEURON_CC_FLAGS", " ".join(flags), "; ".join(reasons))
    yield _cache(instance)


def _has_torch_xla(instance: Instance) -> bool:
    return instance.device is not None and RUNTIME_DEVICE[instance.device.name] == "xla"


def _cache(instance: Instance) -> Variable:
    """Of compiled graphs, a place said aloud. `cluster.compile_cache` is copied to and from it."""
    if _has_torch_xla(instance):
        reason = "on each node's own disk: NFS locks time out"
        return Variable("NEURON_COMPILE_CACHE_URL", NEURON_DEFAULT, reason)
    return Variable(native_cache.VARIABLE, "/var/tmp/ndtrain-neff-cache", "on each node's own disk")


def _runtime(config: Config, instance: Instance, num_nodes: int) -> Iterator[Variable]:
    if instance.device is None:
        return
    yield Variable("NEURON_RT_STOCHASTIC_ROUNDING_EN", "0", "master weights are fp32")
    yield Variable("NEURON_RT_EXEC_TIMEOUT", "600", "s; the first step waits for the last compiler")
    if instance.cores_per_device > 1:
        cores = str(instance.cores_per_device)
        yield Variable("NEURON_RT_VIRTUAL_CORE_SIZE", cores, "physical cores of a device (LNC)")
    yield Variable("MALLOC_ARENA_MAX", "64", "malloc's arenas of all ranks fill the host's memory")
    yield Variable("OMP_NUM_THREADS", "1", "ranks compute on their devices, not on the host")


def _xla(config: Config, instance: Instance, num_nodes: int) -> Iterator[Variable]:
    if not _has_torch_xla(instance):
        return
    reason = "steps that the host is ahead of the device (runtime <= 2.30)"
    yield Variable("NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS", "3", reason)
    yield Variable("NEURON_FUSE_SOFTMAX", "1", "the compiler's own softmax")
    reason = "torch-xla's own default, with which it was tested; torch-neuronx changes it"
    yield Variable("XLA_DISABLE_FUNCTIONALIZATION", "0", reason)


def _streams(config: Config, instance: Instance, num_nodes: int) -> Iterator[Variable]:
    """Only the native runtime of trn2 has streams; unused, they cost part of the collectives."""
    if instance.device is None or instance.device.name != "trn2":
        return
    dp = data_parallel(config, num_nodes * instance.num_devices) or 1
    if not overlaps(config, dp):
        return
    for name, reason in STREAM_VARIABLES.items():
        yield Variable(name, "1", f"{reason} (overlap)")
    reason = "bytes; compute's packets, no smaller than tensor parallelism's"
    yield Variable("NEURON_RT_DBG_DMA_PACKETIZATION_SIZE", str(_LARGE), reason)
    yield Variable("NEURON_RT_DBG_CC_DMA_PACKET_SIZE", *_packets(config, dp))


def _packets(config: Config, dp: int) -> tuple[str, str]:
    """Bytes of a packet of each stream's collectives, and why.

    DMA engines take turns at packets, so a larger one is a larger share of them. Tensor parallelism
    is on the critical path and comes first, then compute, then ZeRO's buckets (Neuron SDK,
    compute-comm-overlap). How the runtime numbers streams that the host makes is not documented.
    So every stream has an entry, in the order in which they are made; and if all beside the first
    should share the second entry, tensor parallelism still loses nothing.
    """
    if not overlaps_data(config, dp):
        return str(_LARGE), "bytes; the default: ZeRO's buckets are not beside compute"
    side = _LARGE if overlaps_tensor(config) else _SMALL
    sizes = {"main": _LARGE, "gather": side, "scatter": side}
    sizes |= {"data_gather": _SMALL, "data_scatter": _SMALL}
    reason = f"bytes by stream, {', '.join(sizes)}: ZeRO's buckets give way to compute"
    return ",".join(map(str, sizes.values())), reason


_RULES: tuple[Rule, ...] = (_efa, _compiler, _runtime, _xla, _streams)

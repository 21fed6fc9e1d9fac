"""Whether a configuration fits the nodes of a cluster: group sizes, whole nodes, memory.

    trn1 = find_instance("trn1.32xlarge")
    loaded = load_for("qwen3_8b+pretrain", ["parallel.tp=8"], trn1)
    check_placement(loaded.config, trn1, num_nodes=4, origins=loaded.origins)
    need = state_bytes(loaded.config, world_size=128)       # of one rank, a lower bound

A tensor-parallel group lies inside a node, where neighbouring ranks are neighbouring devices; data-
parallel groups then have the same devices of every node, as Neuron's collectives between nodes
want it (Neuron SDK, neuron-runtime/explore/internode-collective-comm).
"""

from collections.abc import Iterator, Mapping, Sequence

from ndtrain.cluster.rank import RUNTIME_DEVICE
from ndtrain.config.checks import Problem, as_error, data_parallel, legal_tp
from ndtrain.config.load import DEFAULT, Loaded, fail, load
from ndtrain.config.schema import Config
from ndtrain.hardware.instances import INSTANCES, Instance
from ndtrain.hardware.tables import GIB

_BYTES = {"fp32": 4, "bf16": 2}
_MASTER_AND_MOMENTS = 12  # bytes: three fp32 numbers a parameter, sharded over data parallelism
_GRADIENT = 4  # bytes: fp32, accumulated over micro-batches
_NODES_TRIED = (1, 2, 4, 8, 16, 32, 64)


def check_placement(
    config: Config,
    instance: Instance,
    num_nodes: int,
    origins: Mapping[str, str] | None = None,
) -> None:
    """Raises UserError or UserErrors with the legal values. CPUs have no rule."""
    if instance.device is None:
        return
    problems = [*_nodes(instance, num_nodes), *_groups(config, instance)]
    problems += _device(config, instance)
    problems = problems or list(_memory(config, instance, num_nodes))
    if problems:
        fail([as_error(problem, origins or {}) for problem in problems])


def predict(config: Config, instance: Instance, num_nodes: int) -> str:
    """Lower bounds from the vendor's figures, for a person; nothing of it was measured.

    Out of a node go, of all parameters, the gradients and then the weights that the other nodes
    own: (n - 1) / n of each, however the collectives are made.
    """
    assert instance.device is not None
    world_size, memory = num_nodes * instance.num_devices, instance.device.memory_bytes
    share = f"{state_bytes(config, world_size) / GIB:.1f} of {memory / GIB:.0f} GiB of a device"
    text = f"predicted, at least: {share}"
    if num_nodes > 1:
        per_parameter = _GRADIENT + _BYTES[config.train.compute_dtype]
        everything = rank_parameters(_with_tp(config, 1)) * per_parameter
        seconds = everything * (num_nodes - 1) / num_nodes / instance.network_bandwidth
        gbits = instance.network_bandwidth * 8 / 1e9
        text += f"; {1e3 * seconds:.0f} ms a step for ZeRO's traffic at {gbits:.0f} Gbit/s a node"
    return text


def _nodes(instance: Instance, num_nodes: int) -> Iterator[Problem]:
    if num_nodes > 1 and not instance.is_multi_node:
        able = [other.name for other in INSTANCES.values() if other.num_efa]
        what = f"{instance.name} has no EFA, so {num_nodes} of them cannot train together"
        yield Problem(what, (), f"one node, or {', '.join(able)}")


def load_for(config: str, overrides: Sequence[str], instance: Instance) -> Loaded:
    """As `load`, with the runtime.device of the hardware where nobody has set one."""
    loaded = load(config, overrides)
    if instance.device is None or loaded.origins["runtime.device"] != DEFAULT:
        return loaded
    return load(config, [*overrides, f"runtime.device={RUNTIME_DEVICE[instance.device.name]}"])


def _device(config: Config, instance: Instance) -> Iterator[Problem]:
    assert instance.device is not None
    wanted = RUNTIME_DEVICE[instance.device.name]
    if config.runtime.device != wanted:
        what = f"runtime.device={config.runtime.device} would leave {instance.name}'s devices idle"
        yield Problem(what, ("runtime.device",), f"set runtime.device={wanted}, or leave it out")


def _groups(config: Config, instance: Instance) -> Iterator[Problem]:
    tp = config.parallel.tp
    legal = [size for size in instance.legal_tp if size in legal_tp(config)]
    if tp in legal:
        return
    what = f"parallel.tp={tp} is not a size of a group of devices on {instance.name}"
    if tp in instance.legal_tp:
        what = f"parallel.tp={tp} suits {instance.name}, and does not fit this model"
    help_text = (
        f"legal tp for this model there: {', '.join(map(str, legal))} ({instance.legal_tp_source})"
    )
    yield Problem(what, ("parallel.tp",), help_text)


def _memory(config: Config, instance: Instance, num_nodes: int) -> Iterator[Problem]:
    assert instance.device is not None
    capacity = instance.device.memory_bytes
    world_size = num_nodes * instance.num_devices
    need = state_bytes(config, world_size)
    if need <= capacity:
        return
    what = (
        f"a rank needs at least {need / GIB:.1f} GiB for weights, gradients, optimizer and the"
        f" inputs of blocks, and a device of {instance.name} has {capacity / GIB:.0f}"
    )
    keys = ("parallel.tp", "train.micro_batch_size", "data.sequence_length")
    yield Problem(what, keys, _what_fits(config, instance))


def _what_fits(config: Config, instance: Instance) -> str:
    """For every legal tp the smallest number of nodes."""
    assert instance.device is not None
    fitting = []
    more = " or more" if instance.is_multi_node else ""
    for tp in (size for size in instance.legal_tp if size in legal_tp(config)):
        for nodes in _NODES_TRIED if instance.is_multi_node else (1,):
            need = state_bytes(_with_tp(config, tp), nodes * instance.num_devices)
            if need <= instance.device.memory_bytes:
                number = f"{nodes} node{'s' if nodes > 1 else ''}"
                fitting.append(f"parallel.tp={tp} on {number}{more}")
                break
    if not fitting:
        return f"no tp fits on {instance.name}: take a smaller model, or shorter rows"
    return f"what fits: {', '.join(fitting)}"


def _with_tp(config: Config, tp: int) -> Config:
    parallel = config.parallel.model_copy(update={"tp": tp, "dp": "auto"})
    return config.model_copy(update={"parallel": parallel})


def state_bytes(config: Config, world_size: int) -> float:
    """Of one rank: weights, fp32 gradients, its part of master weights and moments (ZeRO-1), and
    the input of every block of a micro-batch. What a step needs besides is not counted.
    """
    dp = data_parallel(config, world_size) or 1
    weights = rank_parameters(config)
    compute = _BYTES[config.train.compute_dtype]
    state = weights * (compute + _GRADIENT + _MASTER_AND_MOMENTS / dp)
    tokens = config.train.micro_batch_size * config.data.sequence_length / config.parallel.tp
    return state + tokens * config.model.hidden_size * config.model.num_layers * compute


def rank_parameters(config: Config) -> float:
    """Parameters of one tensor-parallel rank, without norms. Key/value heads that are fewer than
    the ranks are kept on several.
    """
    model, tp = config.model, config.parallel.tp
    queries = model.num_heads * model.head_dim / tp
    keys = max(1.0, model.num_kv_heads / tp) * model.head_dim
    block = model.hidden_size * (2 * queries + 2 * keys + 3 * model.intermediate_size / tp)
    embeddings = model.vocab_size / tp * model.hidden_size * (1 if model.tie_embeddings else 2)
    return model.num_layers * block + embeddings

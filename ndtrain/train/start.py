"""From a configuration to the runtime of a rank: its device's packages, its group, its streams.

    require_device(config)             # before anything else touches the device
    join_group(config, world_size)     # with more than one rank
    runtime = start_runtime(config)

A device's own modules are imported here, and nowhere else.
"""

import os
from datetime import timedelta

import torch.distributed as dist

from ndtrain.config.overlapping import overlaps
from ndtrain.config.schema import Config
from ndtrain.runtime.runtime import Runtime, start_cpu
from ndtrain.train.place import RENDEZVOUS


def require_device(config: Config) -> None:
    """Raises UserError if this process cannot drive `runtime.device` as the configuration asks."""
    if config.runtime.device == "neuron":
        from ndtrain.runtime.start_neuron import require_neuron

        require_neuron(overlaps(config, _dp(config)))


def join_group(config: Config, world_size: int) -> None:
    """Local ranks meet at a file of their launcher, others where torchrun says."""
    backend, timeout = "gloo", timedelta(seconds=config.guards.setup_seconds)
    if config.runtime.device == "neuron":
        from ndtrain.runtime.start_neuron import BACKEND

        backend = BACKEND
    rendezvous = os.environ.get(RENDEZVOUS)
    if rendezvous is None:
        dist.init_process_group(backend, timeout=timeout)
    else:
        rank = int(os.environ["RANK"])
        dist.init_process_group(backend, rendezvous, timeout, world_size, rank)


def start_runtime(config: Config) -> Runtime:
    """Collective over the world."""
    tp, dp, num_kv_heads = config.parallel.tp, _dp(config), config.model.num_kv_heads
    if config.runtime.device == "cpu":
        return start_cpu(tp, dp, num_kv_heads)
    if config.runtime.device == "neuron":
        from ndtrain.runtime.start_neuron import start_neuron

        return start_neuron(tp, dp, num_kv_heads)
    from ndtrain.runtime.start_xla import start_xla  # needs torch-xla

    return start_xla(tp, dp, num_kv_heads)


def _dp(config: Config) -> int:
    assert isinstance(config.parallel.dp, int), "`resolve` has filled it in"
    return config.parallel.dp

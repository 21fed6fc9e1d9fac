"""What a process does first that is one rank of several: configuration, group, runtime.

    config = rank_config(loaded, world_size)
    with rank_group(config, world_size):
        runtime = start_runtime(config)

Rank and world size come from the environment that torch's launcher sets; without it, one rank. A
device's own modules are imported here, and nowhere else.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from ndtrain.config.checks import check, resolve
from ndtrain.config.load import Loaded
from ndtrain.config.overlapping import overlaps
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError
from ndtrain.runtime.compiler import require_compiler
from ndtrain.runtime.first_runs import FirstRuns
from ndtrain.runtime.runtime import Runtime, start_cpu
from ndtrain.train.agree import Bystander
from ndtrain.train.graph_key import graph_key
from ndtrain.train.meet import meet
from ndtrain.train.place import RENDEZVOUS, threads_per_rank


def world_size_here() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """In its node, whose first rank does what is done once a node."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def said_once() -> Iterator[None]:
    """Around what every rank finds alike: the first one raises it, the others `Bystander`."""
    try:
        yield
    except UserError as error:
        raise error if is_first_rank() else Bystander(error.exit_code) from None


def rank_config(loaded: Loaded, world_size: int) -> Config:
    """Checked and resolved, and one that this process's packages can run.

    Raises UserError, or Bystander beside the first rank.
    """
    with said_once():
        check(loaded.config, world_size, loaded.origins)
        config = resolve(loaded.config, world_size)
        _require_device(config)
        return config


def _require_device(config: Config) -> None:
    """Before anything else touches the device."""
    if config.runtime.device == "neuron":
        from ndtrain.runtime.start_neuron import require_neuron

        require_neuron(overlaps(config, _dp(config)))
    if config.runtime.compile:
        require_compiler(config.runtime.device)


@contextmanager
def rank_group(config: Config, world_size: int) -> Iterator[None]:
    """The group of all ranks, where there are several, and this rank's share of the cores."""
    torch.set_num_threads(threads_per_rank(int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    if world_size > 1:
        _join_group(config, world_size)
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join_group(config: Config, world_size: int) -> None:
    """Local ranks meet at a file of their launcher, others where torchrun says."""
    backend, timeout = "gloo", timedelta(seconds=config.guards.setup_seconds)
    if config.runtime.device == "neuron":
        from ndtrain.runtime.start_neuron import BACKEND

        backend = BACKEND
    rank = int(os.environ["RANK"])
    store = meet(rank, world_size, os.environ.get(RENDEZVOUS))
    store.set_timeout(timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def start_runtime(config: Config) -> Runtime:
    """config: resolved. Collective over the world."""
    tp, dp, num_kv_heads = config.parallel.tp, _dp(config), config.model.num_kv_heads
    if config.runtime.device == "cpu":
        return start_cpu(tp, dp, num_kv_heads, _first_runs(config))
    if config.runtime.device == "neuron":
        from ndtrain.runtime.start_neuron import start_neuron

        return start_neuron(tp, dp, num_kv_heads, graph_key(config))
    from ndtrain.runtime.start_xla import start_xla  # needs torch-xla

    return start_xla(tp, dp, num_kv_heads, graph_key(config))


def _first_runs(config: Config) -> FirstRuns | None:
    """Of a CPU, where only torch.compile compiles; its compiler is imported for no other run."""
    if not config.runtime.compile:
        return None
    from ndtrain.runtime.inductor_graphs import InductorGraphs

    return FirstRuns(InductorGraphs(), None, lambda: None)


def _dp(config: Config) -> int:
    assert isinstance(config.parallel.dp, int), "`resolve` has filled it in"
    return config.parallel.dp

"""A short collective between nodes, one rank each, over gloo: right, and how fast each receives.

    gbits = ring_rate("node1", port=29400, rank=1, world_size=4)     # from the rank before

A hop of a ring is timed and not an all-reduce, because its time is that of one link and names the
node at its end. The rendezvous is at the port where torchrun will meet.
"""

import os
import time
from datetime import timedelta
from statistics import median

import torch
import torch.distributed as dist

from ndtrain.cluster.node import address_towards, interface_of
from ndtrain.core.errors import UserError

MEBIBYTES = 8
_ROUNDS = 5  # of which the first, which opens connections, does not count
_TIMEOUT = timedelta(seconds=15)


def ring_rate(head: str, port: int, rank: int, world_size: int) -> float:
    """Gbit/s that this rank receives. Collective over the ranks.

    Raises UserError if a sum comes out wrong, RuntimeError (torch's DistError) if a node is gone.
    """
    interface = interface_of(address_towards(head))
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    dist.init_process_group(
        "gloo", f"tcp://{head}:{port}", timeout=_TIMEOUT, rank=rank, world_size=world_size
    )
    try:
        _check_sum(rank, world_size)
        seconds = [_hop(rank, world_size) for _ in range(_ROUNDS)]
    finally:
        dist.destroy_process_group()
    return MEBIBYTES * 2**20 * 8 / median(seconds[1:]) / 1e9


def _check_sum(rank: int, world_size: int) -> None:
    values = torch.full((1024,), float(rank + 1))
    dist.all_reduce(values)
    wanted = world_size * (world_size + 1) / 2
    if not bool((values == wanted).all()):
        raise UserError(f"an all-reduce over {world_size} nodes gave a wrong sum", f"rank {rank}")


def _hop(rank: int, world_size: int) -> float:
    sent = torch.zeros(MEBIBYTES * 2**18)
    received = torch.empty_like(sent)
    dist.barrier()
    began = time.perf_counter()
    send = dist.isend(sent, (rank + 1) % world_size)
    dist.recv(received, (rank - 1) % world_size)
    seconds = time.perf_counter() - began
    assert send is not None, "this rank is of the group"
    send.wait()
    return seconds

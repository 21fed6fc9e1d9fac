"""Real ranks for tests: processes with a gloo group of their own that run functions together.

    results = ranks(2).run(function, argument)      # function(rank, argument) on each rank

The processes live as long as the session: starting two costs seconds. A failure on any rank ends
the pool, and the next use starts a new one. The function must be importable by name.
"""

import gc
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TIMEOUT_S = 300


def _serve(rank: int, size: int, port: int, connection: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group(
        "gloo", rank=rank, world_size=size, timeout=timedelta(seconds=TIMEOUT_S)
    )
    while True:
        task = connection.recv()
        if task is None:
            break
        function, arguments = task
        try:
            connection.send((True, function(rank, *arguments)))
        except BaseException:
            connection.send((False, traceback.format_exc()))
        _end_groups()
    dist.destroy_process_group()


def _end_groups() -> None:
    """Each runtime makes process groups, and each of those threads that poll."""
    import torch.distributed as dist

    gc.collect()
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)
    gc.collect()


class RankPool:
    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.connections, self.processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, port, theirs), daemon=True)
            process.start()
            self.connections.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Results by rank. Raises AssertionError with the first failing rank's traceback."""
        for connection in self.connections:
            connection.send((function, arguments))
        results = []
        for rank, connection in enumerate(self.connections):
            if not connection.poll(TIMEOUT_S):
                self.close()
                raise AssertionError(f"rank {rank} did not answer in {TIMEOUT_S} s")
            succeeded, result = connection.recv()
            if not succeeded:
                self.close()
                raise AssertionError(f"rank {rank} failed:\n{result}")
            results.append(result)
        return results

    @property
    def is_alive(self) -> bool:
        return bool(self.processes) and all(process.is_alive() for process in self.processes)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.processes = []


_pools: dict[int, RankPool] = {}


def ranks(size: int) -> RankPool:
    """The pool of `size` ranks, started when first used or after a failure."""
    if size not in _pools or not _pools[size].is_alive:
        _pools[size] = RankPool(size)
    return _pools[size]


def close_pools() -> None:
    for pool in _pools.values():
        pool.close()
    _pools.clear()


# Spawned processes import test modules by name, from the folder of the repository.
sys.path.insert(0, str(Path(__file__).parent.parent))

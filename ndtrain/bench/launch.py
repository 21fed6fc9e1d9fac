"""Runs a function on several local ranks with one gloo process group, and returns their results.

    results = run_on_ranks(measure, (workload, 10), num_ranks=2)    # [of rank 0, of rank 1]

A process that torchrun (or anything that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT)
started is one of the ranks already: `as_launched_rank`.
"""

import os
import tempfile
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ndtrain.bench.shaped_link import shaped_link
from ndtrain.core.errors import UserError
from ndtrain.train.place import threads_per_rank

Result = TypeVar("Result")


def first_result(
    function: Callable[..., Result],
    arguments: tuple[Any, ...],
    num_ranks: int,
    megabits: int | None,
) -> Result | None:
    """The first rank's result; None on the other ranks of a job that something else started.

    megabits: of a link that is made between ranks on this machine; None: the link as it is.
    Raises UserError where there can be no such link, or the job has another number of ranks.
    """
    if is_launched_rank():
        result = as_launched_rank(function, arguments, num_ranks)
        return result if launched_rank() == 0 else None
    if megabits is None:
        return run_on_ranks(function, arguments, num_ranks)[0]
    with shaped_link(num_ranks, megabits) as link:
        return link.run(function, arguments)[0]


def run_on_ranks(
    function: Callable[..., Result], arguments: tuple[Any, ...], num_ranks: int
) -> list[Result]:
    """Fresh processes through torch's elastic launcher; `function` must be importable.

    Raises ChildFailedError, with the traceback of the first rank that failed, if one did.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="ndtrain_bench_") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_ranks,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        by_rank = elastic_launch(config, _spawned_rank)(function, arguments)
    return [by_rank[rank] for rank in range(num_ranks)]


def is_launched_rank() -> bool:
    """Whether this process is one of the ranks of a job that something else started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launched_rank() -> int:
    return int(os.environ["RANK"])


def num_local_ranks(num_ranks: int) -> int:
    """Ranks on this machine, of num_ranks altogether; all of them if nothing says otherwise."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", num_ranks)) if is_launched_rank() else num_ranks


def as_launched_rank(
    function: Callable[..., Result], arguments: tuple[Any, ...], num_ranks: int
) -> Result:
    """Calls `function` in this process, as the rank that the environment says it is.

    Raises UserError if the job has another number of ranks.
    """
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size != num_ranks:
        raise UserError(
            f"--ranks is {num_ranks}, but this job was started with {world_size}",
            "the command line",
            f"pass --ranks {world_size}",
        )
    return _spawned_rank(function, arguments)


def _spawned_rank(function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    world_size = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(threads_per_rank(num_local_ranks(world_size)))
    dist.init_process_group("gloo")
    try:
        return function(*arguments)
    finally:
        dist.destroy_process_group()

"""`ndtrain bench step`: one forward and backward, ours against PyTorch's and against bare compute.

measurement = measure_step(DEFAULT, num_rounds=10)
print(report.as_text(measurement))
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from ndtrain.bench import launch, memory
from ndtrain.bench.contestant import Contestant
from ndtrain.bench.contestants_ours import Bare, Ours
from ndtrain.bench.contestants_peers import DTensorPeer, Transformers
from ndtrain.bench.peer_model import require_transformers
from ndtrain.bench.plain_exchange import PlainExchange
from ndtrain.bench.rounds import Rounds, run_rounds
from ndtrain.bench.transfers import Layout
from ndtrain.bench.workload import Workload
from ndtrain.observe.environment import processor_name
from ndtrain.train.place import threads_per_rank

MEASURED_FOR_MEMORY: tuple[type[Contestant], ...] = (Ours, DTensorPeer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """memory_bytes: peak of the neediest rank, by contestant; None where it was not measured."""

    workload: Workload
    num_threads: int  # of each rank
    processor: str
    torch_version: str
    rounds: Rounds
    memory_bytes: dict[str, int] | None


def measure_step(workload: Workload, num_rounds: int) -> Measurement | None:
    """Times all contestants in one process group, then the memory of two in fresh processes.

    Starts the ranks on this machine; in a process that is a rank already (torchrun) it only takes
    part, cannot start fresh processes for the memory, and returns None except on rank 0.
    Raises UserError without transformers, UserErrors for a shape that the ranks cannot share.
    """
    workload.check()
    require_transformers()
    if launch.is_launched_rank():
        rounds = launch.as_launched_rank(_time_rounds, (workload, num_rounds), workload.num_ranks)
        memory_bytes = None
        if launch.launched_rank() != 0:
            return None
    else:
        rounds = launch.run_on_ranks(_time_rounds, (workload, num_rounds), workload.num_ranks)[0]
        memory_bytes = _measure_memory(workload) if memory.can_measure_memory() else None
    return Measurement(
        workload=workload,
        num_threads=threads_per_rank(launch.num_local_ranks(workload.num_ranks)),
        processor=processor_name(),
        torch_version=torch.__version__,
        rounds=rounds,
        memory_bytes=memory_bytes,
    )


def _time_rounds(workload: Workload, num_rounds: int) -> Rounds:
    exchange = PlainExchange(Layout(workload.num_ranks, 1, dist.get_rank()), ("tensor",))
    contestants = [Ours(), DTensorPeer(), Bare(), exchange, Transformers()]
    return run_rounds(contestants, workload, num_rounds)


def _measure_memory(workload: Workload) -> dict[str, int]:
    return {
        kind.name: launch.run_on_ranks(
            memory.peak_memory_bytes, (kind, workload), workload.num_ranks
        )[0]
        for kind in MEASURED_FOR_MEMORY
    }

"""`ndtrain bench overlap`: what hiding the communication is worth on a link.

    measurement = measure_overlap(workload, num_rounds=10, megabits=1000)

Contestants in one process group, in interleaved rounds: bare compute; what the machine allows, in
plain PyTorch (`machine.py`): the same compute, the transfers alone, both at once and neither
waiting for the other; PyTorch's DTensor; and ours in every form: off, serial, bulk, chunk, ring,
ring2 and auto, which the gate decides from figures measured on the same link a moment before.
"""

from dataclasses import dataclass

import torch.distributed as dist

from ndtrain.bench import launch
from ndtrain.bench.contestant import Contestant
from ndtrain.bench.contestants_ours import Bare, Ours
from ndtrain.bench.contestants_peers import DTensorPeer
from ndtrain.bench.machine import plain_contestants
from ndtrain.bench.peer_model import require_transformers
from ndtrain.bench.rounds import Rounds, run_rounds
from ndtrain.bench.transfers import Layout
from ndtrain.bench.workload import Workload
from ndtrain.config.schema import Overlap
from ndtrain.overlap.gate import Decision
from ndtrain.overlap.modes import Modes
from ndtrain.runtime.runtime import Runtime, start_cpu
from ndtrain.train.overlap_plan import decide_on, measure_machine
from ndtrain.train.place import threads_per_rank

FORMS = ("off", "serial", "bulk", "chunk", "ring", "ring2", "auto")


class OursAs(Ours):
    """Ours with `overlap.mode` set to one form; serial is the plan of auto, one node at a time."""

    def __init__(self, form: str, runtime: Runtime) -> None:
        """runtime: one for all forms, because its process groups bring threads that poll."""
        self.name = form
        self._shared = runtime
        self.decision: Decision | None = None

    def _start_runtime(self, workload: Workload) -> Runtime:
        return self._shared

    def _modes(self, runtime: Runtime, workload: Workload) -> Modes:
        machine = measure_machine(runtime, workload.dtype)
        self.decision, _ = decide_on(
            Overlap(mode=self.name),  # type: ignore[arg-type]
            runtime,
            workload.shape,
            workload.sequence_length,
            workload.batch_size,
            workload.dtype,
            machine,
        )
        return self.decision.modes


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapMeasurement:
    workload: Workload
    megabits: int | None  # of each rank's sending side; None: the link as it is
    num_threads: int
    rounds: Rounds
    decided: list[str]  # what auto chose, a line an operation


def measure_overlap(
    workload: Workload, num_rounds: int, megabits: int | None
) -> OverlapMeasurement | None:
    """None on ranks of a torchrun job that do not report. Raises UserError as `measure_step`."""
    workload.check()
    require_transformers()
    found = launch.first_result(_rounds, (workload, num_rounds), workload.num_ranks, megabits)
    if found is None:
        return None
    rounds, decided = found
    return OverlapMeasurement(
        workload=workload,
        megabits=megabits,
        num_threads=threads_per_rank(launch.num_local_ranks(workload.num_ranks)),
        rounds=rounds,
        decided=decided,
    )


def _rounds(workload: Workload, num_rounds: int) -> tuple[Rounds, list[str]]:
    runtime = start_cpu(workload.num_ranks, 1, workload.shape.num_kv_heads)
    forms = [OursAs(form, runtime) for form in FORMS]
    alone = plain_contestants(Layout(workload.num_ranks, 1, dist.get_rank()), None)
    contestants: list[Contestant] = [Bare(), *alone, DTensorPeer(), *forms]
    rounds = run_rounds(contestants, workload, num_rounds)
    decision = forms[-1].decision
    assert decision is not None
    dist.barrier()
    return rounds, decision.lines()

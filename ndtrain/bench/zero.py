"""`ndtrain bench overlap --zero`: whole optimizer steps, and what hiding is worth on either axis.

    measurement = measure_zero(workload, 2, num_rounds=10, megabits=1000, bucket_bytes=16 * 10**6)

Contestants in one process group, in interleaved rounds: bare compute; what the machine allows, in
plain PyTorch (`machine.py`): the same compute, the transfers of each axis alone, compute and all
transfers at once, neither waiting for the other; and ours with nothing hidden, with the tensor
axis hidden (the gate's choice), with the data axis hidden (ZeRO's buckets), and with both. As in a
run, a step finds the weights of the one before on their way: an untimed step comes first, and the
weights of the timed one arrive after it, untimed.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from ndtrain.bench import launch
from ndtrain.bench.batch import make_batch
from ndtrain.bench.contestant import Contestant
from ndtrain.bench.machine import plain_contestants
from ndtrain.bench.rounds import Rounds, run_rounds
from ndtrain.bench.transfers import Layout
from ndtrain.bench.workload import Workload, of_replica
from ndtrain.config.schema import Optim, Overlap
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.overlap.gate import Decision
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.runtime.dtypes import DTYPES
from ndtrain.runtime.runtime import Runtime, start_cpu, still
from ndtrain.train.overlap_plan import decide_on, measure_machine
from ndtrain.train.place import threads_per_rank

Hidden = Literal["nothing", "tensor", "data", "both"]


class ZeroSteps(Contestant):
    """Whole steps: forward, backward, AdamW on this rank's part. hides: what travels behind it."""

    uses_all_ranks = True
    has_loss = True

    def __init__(self, hides: Hidden, dp: int, bucket_bytes: int, runtime: Runtime) -> None:
        """runtime: one for all forms, because its process groups bring threads that poll."""
        self.name = f"hides {hides}"
        self.runtime = runtime
        self.decision: Decision | None = None
        self._hides, self._dp, self._bucket_bytes = hides, dp, bucket_bytes

    def setup(self, workload: Workload) -> None:
        runtime = self.runtime
        with torch.device("meta"):
            model = Qwen3(workload.shape)
        self.decision = self._decide(workload)
        shards = parallelize(model, runtime, self.decision.modes)
        self.model = model
        self.optimizer = ShardedAdamW(
            model,
            shards,
            RandomWeights(workload.shape, workload.seed),
            runtime,
            Optim(lr=1e-4),
            DTYPES[workload.dtype],
            self._bucket_bytes,
            in_background=self._hides in ("data", "both"),
        )
        own = of_replica(workload, runtime.mesh.data.rank)
        self._tokens_BS, self._targets_BS = make_batch(own)
        weight = 1 / (self._tokens_BS.numel() * self._dp)
        self._weights_BS = torch.full(self._tokens_BS.shape, weight)

    def step(self) -> float:
        self.optimizer.traffic.arm()
        loss = self.model.loss(self._tokens_BS, self._targets_BS, self._weights_BS)
        loss.backward()
        self.optimizer.step(1e-4)
        return loss.item()

    @contextmanager
    def turn(self) -> Iterator[None]:
        self.step()
        yield
        self.optimizer.traffic.finish()

    def _decide(self, workload: Workload) -> Decision:
        hides = self._hides in ("tensor", "both")
        settings = Overlap(mode="auto" if hides else "off")
        machine = measure_machine(self.runtime, workload.dtype) if hides else None
        decision, _ = decide_on(
            settings,
            self.runtime,
            workload.shape,
            workload.sequence_length,
            workload.batch_size,
            workload.dtype,
            machine,
        )
        return decision


class BareSteps(ZeroSteps):
    """Each rank's share of the compute, and nothing is exchanged."""

    has_loss = False

    def __init__(self, workload: Workload, dp: int, bucket_bytes: int) -> None:
        rank, kv_heads = dist.get_rank(), workload.shape.num_kv_heads
        runtime = still(rank, workload.num_ranks, dp, kv_heads, "cpu")
        super().__init__("nothing", dp, bucket_bytes, runtime)
        self.name = "bare"

    def step(self) -> float:
        super().step()
        return math.nan

    def _decide(self, workload: Workload) -> Decision:
        return Decision.blocking()


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroMeasurement:
    workload: Workload  # num_ranks: of the tensor axis; batch_size: of a replica
    dp: int
    megabits: int | None  # of each rank's sending side; None: the link as it is
    bucket_bytes: int
    num_threads: int
    rounds: Rounds
    decided: list[str]  # what the gate chose for the tensor axis


def measure_zero(
    workload: Workload, dp: int, num_rounds: int, megabits: int | None, bucket_bytes: int
) -> ZeroMeasurement | None:
    """None on ranks of a torchrun job that do not report. Raises UserError as `measure_overlap`.

    bucket_bytes: of fp32 gradients that travel together.
    """
    workload.check()
    num_ranks = workload.num_ranks * dp
    arguments = (workload, dp, num_rounds, bucket_bytes)
    found = launch.first_result(_rounds, arguments, num_ranks, megabits)
    if found is None:
        return None
    rounds, decided = found
    return ZeroMeasurement(
        workload=workload,
        dp=dp,
        megabits=megabits,
        bucket_bytes=bucket_bytes,
        num_threads=threads_per_rank(launch.num_local_ranks(num_ranks)),
        rounds=rounds,
        decided=decided,
    )


def forms_of(tp: int) -> tuple[Hidden, ...]:
    """What can be hidden: on one tensor rank only the data axis moves anything."""
    return ("nothing", "data") if tp == 1 else ("nothing", "tensor", "data", "both")


def _rounds(
    workload: Workload, dp: int, num_rounds: int, bucket_bytes: int
) -> tuple[Rounds, list[str]]:
    tp = workload.num_ranks
    runtime = start_cpu(tp, dp, workload.shape.num_kv_heads)
    forms = [ZeroSteps(hides, dp, bucket_bytes, runtime) for hides in forms_of(tp)]
    bare = BareSteps(workload, dp, bucket_bytes)
    alone = plain_contestants(Layout(tp, dp, dist.get_rank()), bucket_bytes)
    contestants: list[Contestant] = [bare, *alone, *forms]
    rounds = run_rounds(contestants, workload, num_rounds)
    decision = forms[-1].decision
    assert decision is not None
    dist.barrier()
    return rounds, decision.lines() if tp > 1 else []

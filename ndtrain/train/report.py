"""What a run says about itself while it runs: one record a step, traces, status.

Each rank measures its own step; one small all-gather a step brings the figures together. Times are
means over ranks, memory is the largest rank's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ndtrain.core.spans import Span
from ndtrain.data.batch import Batch
from ndtrain.models.qwen3.shape import Shape
from ndtrain.observe.metrics import (
    causal_pairs,
    communication_times,
    model_flops_utilization,
    packed_pairs,
    step_flops,
    tokens_per_second,
)
from ndtrain.observe.run_directory import RunDirectory, State, Status
from ndtrain.observe.sinks import Record, Sink
from ndtrain.observe.trace import write_trace
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.memory import machine_gib, resident_gib
from ndtrain.train.step import StepResult


@dataclass(frozen=True, slots=True)
class StepTimes:
    step_ms: float
    data_ms: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A step over all ranks. loss, tokens, pairs: of the global batch; the rest per rank."""

    loss: float
    tokens: int
    pairs: int
    step_ms: float
    data_ms: float
    comm_ms: float
    exposed_comm_ms: float
    memory_gib: float


class Report:
    def __init__(
        self,
        runtime: Runtime,
        shape: Shape,
        sinks: Sequence[Sink],
        run_directory: RunDirectory,
        trace_steps: tuple[int, int] | None,
        peak_flops: float | None,
        origin_ns: int,
    ) -> None:
        """sinks: of this rank. peak_flops: of all ranks together, None where unknown.

        origin_ns: `perf_counter_ns` of this rank after a barrier, the zero of its trace.
        """
        self.runtime = runtime
        self.run_directory = run_directory
        self._shape = shape
        self._sinks = sinks
        self._trace_steps = trace_steps
        self._peak_flops = peak_flops
        self._origin_ns = origin_ns
        self._traced: list[Span] = []
        self._step = 0
        self._checkpoint: str | None = None

    def note(self, text: str) -> None:
        for sink in self._sinks:
            sink.note(text)

    def evaluation(self, step: int, held_out_loss: float) -> None:
        self.runtime.spans.drain()  # of the evaluation: they belong to no step
        self._write({"step": step, "held_out_loss": held_out_loss})

    def step(
        self, step: int, result: StepResult, lr: float, batches: Sequence[Batch], times: StepTimes
    ) -> None:
        """Collective over the world."""
        self._step = step
        spans = self.runtime.spans.drain()
        if self._trace_steps and self._trace_steps[0] <= step <= self._trace_steps[1]:
            self._traced += spans
        measured = self._gather(result.loss, spans, batches, times)
        self.runtime.spans.drain()  # of the gather itself
        self._write({"step": step, **self._record(measured), **_optimizer(result, lr)})

    def saved(self, folder: Path) -> None:
        self._checkpoint = str(folder.relative_to(self.run_directory.path))
        self.note(f"saved {folder}")
        self.status("running")

    def status(self, state: State, reason: str = "", retryable: bool = False) -> None:
        if self.runtime.mesh.world.rank == 0:
            self.run_directory.write_status(
                Status(
                    state=state,
                    step=self._step,
                    checkpoint=self._checkpoint,
                    reason=reason,
                    retryable=retryable,
                )
            )

    def close(self) -> None:
        if self._traced:
            rank = self.runtime.mesh.world.rank
            file = self.run_directory.trace_file(rank)
            write_trace(file, self._traced, rank, self._origin_ns)
        for sink in self._sinks:
            sink.close()

    def _gather(
        self, loss: float, spans: list[Span], batches: Sequence[Batch], times: StepTimes
    ) -> Measured:
        communication = communication_times(spans)
        own = (
            loss,
            sum(batch.tokens_BS.size for batch in batches),
            sum(attended_pairs(batch) for batch in batches),
            times.step_ms,
            times.data_ms,
            communication.comm_ms,
            communication.exposed_comm_ms,
            resident_gib(),
        )
        mesh = self.runtime.mesh
        all_ranks = self.runtime.collectives.all_gather(
            torch.tensor([own], dtype=torch.float64), mesh.world, "metrics"
        )
        mean = all_ranks.mean(0).tolist()
        # Tensor ranks share a data-parallel rank's batch: the total is over the data axis only.
        total_loss, tokens, pairs = (value * mesh.data.size for value in mean[:3])
        largest = all_ranks[:, -1].max().item()
        step_ms, data_ms, comm_ms, exposed_ms = mean[3:-1]
        return Measured(
            total_loss, round(tokens), round(pairs), step_ms, data_ms, comm_ms, exposed_ms, largest
        )

    def _record(self, measured: Measured) -> Record:
        flops = step_flops(self._shape, measured.tokens, measured.pairs)
        rate = tokens_per_second(measured.tokens, measured.step_ms)
        comm_ms, exposed_ms = measured.comm_ms, measured.exposed_comm_ms
        return {
            "loss": measured.loss,
            "tokens_per_second": rate,
            "tokens_per_second_per_device": rate / self.runtime.mesh.world.size,
            "tflops": flops / (measured.step_ms / 1e3) / 1e12,
            "mfu": model_flops_utilization(flops, measured.step_ms, self._peak_flops),
            "step_ms": measured.step_ms,
            "data_ms": measured.data_ms,
            "comm_ms": comm_ms,
            "exposed_comm_ms": exposed_ms,
            "overlap_pct": 100 * (1 - exposed_ms / comm_ms) if comm_ms else None,
            "memory_gib": measured.memory_gib,
            "memory_pct": 100 * measured.memory_gib / machine_gib(),
        }

    def _write(self, record: Record) -> None:
        for sink in self._sinks:
            sink.write(record)


def _optimizer(result: StepResult, lr: float) -> Record:
    return {"grad_norm": result.grad_norm, "lr": lr}


def attended_pairs(batch: Batch) -> int:
    """(query, key) pairs that attend in the batch."""
    rows, sequence = batch.tokens_BS.shape
    if batch.starts_BS is None:
        return rows * causal_pairs(sequence)
    return packed_pairs(np.arange(sequence) - batch.starts_BS)

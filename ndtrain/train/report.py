"""What a run says about itself while it runs: one record a step, traces, status.

Each rank measures its own step; one small all-gather a step brings the figures together. Times are
means over ranks, memory is the largest rank's. The same all-gather carries what the ranks have to
agree on: requests to stop, whether a save is written, the order of their collectives.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ndtrain.checkpoint.source import step_of
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
from ndtrain.observe.sinks import JsonlSink, Record, Sink
from ndtrain.observe.trace import write_trace
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.memory import machine_gib, resident_gib
from ndtrain.train.overlap_report import OverlapReport
from ndtrain.train.step import StepResult
from ndtrain.train.stop import Request

STATUS_EVERY_S = 5.0  # `status.json` is at most so old, and a step longer


@dataclass(frozen=True, slots=True)
class StepTimes:
    step_ms: float
    data_ms: float


@dataclass(frozen=True, slots=True)
class Own:
    """What one rank brings to the agreement of a step."""

    request: Request
    is_written: bool


@dataclass(frozen=True, slots=True)
class Agreed:
    """The same on every rank."""

    loss: float
    request: Request
    is_written: bool  # the save in flight, on all ranks
    same_calls: bool  # whether all ranks made the same collectives in the same order
    compute_ms: tuple[float, ...]  # by rank, of the step without waiting for others


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
    overlap: tuple[float, ...]  # tallies of the operations, `overlap_report.py`


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
        start_step: int = 0,
        checkpoint: Path | None = None,
        overlap: OverlapReport | None = None,
        counters: Callable[[], Record] = dict,
    ) -> None:
        """sinks: of this rank. peak_flops: of all ranks together, None where unknown.

        start_step, checkpoint: of the state that the run goes on from.
        overlap: what is said about overlap, and what has to hide.
        counters: further metrics of a step, as they are at its end.
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
        self._step = start_step
        self._checkpoint: str | None = None if checkpoint is None else self._relative(checkpoint)
        self._saved_step = start_step
        self._status_written = 0.0
        self._counters = counters
        self._overlap = overlap or OverlapReport({}, ())

    def note(self, text: str) -> None:
        for sink in self._sinks:
            sink.note(text)

    def overlap_summary(self) -> None:
        """What overlap did in this run, operation by operation."""
        for line in self._overlap.summary():
            self.note(line)

    def evaluation(self, step: int, held_out_loss: float) -> None:
        self.runtime.spans.drain()  # of the evaluation: they belong to no step
        self._write({"step": step, "held_out_loss": held_out_loss})

    def step(
        self,
        step: int,
        result: StepResult,
        lr: float,
        batches: Sequence[Batch],
        times: StepTimes,
        own: Own,
    ) -> Agreed:
        """Collective over the world."""
        self._step = step
        spans = self.runtime.spans.drain()
        if self._trace_steps and self._trace_steps[0] <= step <= self._trace_steps[1]:
            self._traced += spans
        measured, agreed = self._gather(result.loss, spans, batches, times, own)
        self.runtime.spans.drain()  # of the gather itself
        has_times = self.runtime.has_times  # else only a profile of the device knows
        overlap = self._overlap.record(measured.overlap) if has_times else {}
        further = {**_optimizer(result, lr), **self._counters(), "overlap": overlap}
        self._write({"step": step, **self._record(measured), **further})
        if time.monotonic() - self._status_written > STATUS_EVERY_S:
            self.status("running")
        return agreed

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.runtime.mesh.world.rank == 0

    @property
    def checkpoint(self) -> str | None:
        """The last one that is complete, relative to the run directory."""
        return self._checkpoint

    @property
    def is_saved(self) -> bool:
        """Whether the last completed step is in a checkpoint."""
        return self._checkpoint is not None and self._saved_step == self._step

    def saved(self, folder: Path, seconds: float) -> None:
        """seconds: from the copy in memory to the publication, which waits for the end of a step.

        A job's stop signal has to come so long before its end (`cluster/lead.py`).
        """
        self._checkpoint = self._relative(folder)
        self._saved_step = step_of(folder)
        for sink in self._sinks:
            if isinstance(sink, JsonlSink):  # no line for a terminal: the note says it
                sink.write({"step": self._saved_step, "save_ms": 1e3 * seconds})
        self.note(f"saved {folder}")
        self.status("running")

    def status(self, state: State, reason: str = "", retryable: bool = False) -> None:
        self._status_written = time.monotonic()
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

    def _relative(self, folder: Path) -> str:
        """To the run directory; a checkpoint of another run keeps its path."""
        inside = folder.is_relative_to(self.run_directory.path)
        return str(folder.relative_to(self.run_directory.path) if inside else folder)

    def close(self) -> None:
        if self._traced:
            rank = self.runtime.mesh.world.rank
            file = self.run_directory.trace_file(rank)
            write_trace(file, self._traced, rank, self._origin_ns)
        for sink in self._sinks:
            sink.close()

    def _gather(
        self,
        loss: float,
        spans: list[Span],
        batches: Sequence[Batch],
        times: StepTimes,
        own: Own,
    ) -> tuple[Measured, Agreed]:
        communication = communication_times(spans)
        row = (
            loss,
            sum(batch.tokens_BS.size for batch in batches),
            sum(attended_pairs(batch) for batch in batches),
            times.step_ms,
            times.data_ms,
            communication.comm_ms,
            communication.exposed_comm_ms,
            resident_gib(),
            own.request,
            own.is_written,
            *self._calls(),
            *self._overlap.row(spans),
        )
        mesh = self.runtime.mesh
        all_ranks = self.runtime.collectives.all_gather(
            torch.tensor([row], dtype=torch.float64), mesh.world, "metrics"
        )
        mean = all_ranks.mean(0).tolist()
        # Tensor ranks share a data-parallel rank's batch: the total is over the data axis only.
        total_loss, tokens, pairs = (value * mesh.data.size for value in mean[:3])
        step_ms, data_ms, comm_ms, exposed_ms = mean[3:7]
        largest, request = all_ranks[:, 7:9].amax(0).tolist()
        is_written = bool(all_ranks[:, 9].amin().item())
        same_calls = bool((all_ranks[:, 10:12] == all_ranks[0, 10:12]).all())
        compute_ms = tuple((all_ranks[:, 3] - all_ranks[:, 6]).tolist())
        measured = Measured(
            loss=total_loss,
            tokens=round(tokens),
            pairs=round(pairs),
            step_ms=step_ms,
            data_ms=data_ms,
            comm_ms=comm_ms,
            exposed_comm_ms=exposed_ms,
            memory_gib=largest,
            overlap=tuple(mean[12:]),
        )
        agreed = Agreed(total_loss, Request(int(request)), is_written, same_calls, compute_ms)
        return measured, agreed

    def _calls(self) -> tuple[float, float]:
        """How many collectives the main thread made, and a hash of their names (exact in fp64)."""
        flight = self.runtime.collectives.flight
        return float(flight.sequence), float(flight.names_hash)

    def _record(self, measured: Measured) -> Record:
        flops = step_flops(self._shape, measured.tokens, measured.pairs)
        rate = tokens_per_second(measured.tokens, measured.step_ms)
        comm_ms: float | None = measured.comm_ms
        exposed_ms: float | None = measured.exposed_comm_ms
        if not self.runtime.has_times:  # only a profile of the device knows
            comm_ms = exposed_ms = None
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
            "overlap_pct": 100 * (1 - exposed_ms / comm_ms)
            if comm_ms and exposed_ms is not None
            else None,
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

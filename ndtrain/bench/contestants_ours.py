"""Ours; bare compute, the same step without its collectives; they without it; and both at once."""

import math
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ndtrain.bench.batch import make_batch
from ndtrain.bench.contestant import Contestant
from ndtrain.bench.workload import Workload
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.overlap.modes import BLOCKING, Modes
from ndtrain.parallel.apply import materialize, parallelize
from ndtrain.parallel.gradients import sum_replicated_gradients
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.dtypes import DTYPES
from ndtrain.runtime.gloo import GlooTransport
from ndtrain.runtime.runtime import Runtime, start_cpu, still
from ndtrain.runtime.streams import InlineStream
from ndtrain.runtime.transport import Transport


class Ours(Contestant):
    """Tensor and sequence parallelism as `ndtrain train` runs it."""

    name = "ours"
    uses_all_ranks = True
    has_loss = True

    def setup(self, workload: Workload) -> None:
        self.runtime = self._start_runtime(workload)
        with torch.device("meta"):
            self.model = Qwen3(workload.shape)
        modes = self._modes(self.runtime, workload)
        self.shards = parallelize(self.model, self.runtime, modes)
        source = RandomWeights(workload.shape, workload.seed)
        materialize(self.model, self.shards, source, DTYPES[workload.dtype])
        self._tokens_BS, self._targets_BS = make_batch(workload)
        self._weights_BS = torch.full(self._tokens_BS.shape, 1 / self._tokens_BS.numel())

    def step(self) -> float:
        self.model.zero_grad(set_to_none=True)
        loss = self.model.loss(self._tokens_BS, self._targets_BS, self._weights_BS)
        loss.backward()
        sum_replicated_gradients(self.gradients(), self.shards, self.runtime)
        return loss.item()

    def gradients(self) -> dict[str, Tensor]:
        """The local gradient of every parameter, by its name."""
        gradients = {}
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None, name
            gradients[name] = parameter.grad
        return gradients

    def _modes(self, runtime: Runtime, workload: Workload) -> Modes:
        return BLOCKING

    def _start_runtime(self, workload: Workload) -> Runtime:
        return start_cpu(workload.num_ranks, 1, workload.shape.num_kv_heads)


class Bare(Ours):
    """Each rank does its share of the compute and nothing is exchanged: no schedule beats it."""

    name = "bare"
    has_loss = False

    def step(self) -> float:
        super().step()
        return math.nan

    def _start_runtime(self, workload: Workload) -> Runtime:
        kv_heads = workload.shape.num_kv_heads
        return still(dist.get_rank(), workload.num_ranks, 1, kv_heads, "cpu")


class Exchange(Contestant):
    """The collectives of a step of ours, in their order and sizes, with no compute between them.

    bare + exchange is what blocking collectives can reach here at best, by any implementation
    that moves these bytes over this transport.
    """

    name = "exchange"
    uses_all_ranks = True
    has_loss = False

    def setup(self, workload: Workload) -> None:
        recorded = _Recorded()
        recorded.setup(workload)
        recorded.step()
        self.calls = recorded.recorder.calls

    def step(self) -> float:
        for call in self.calls:
            call()
        return math.nan


class Beside(Contestant):
    """Bare compute while a second thread makes the collectives of a step; neither waits.

    What this machine allows to whoever moves these bytes behind this compute: moving them takes
    cycles from it. None of the schedules, streams and forms of overlap is in it.
    """

    name = "beside"
    uses_all_ranks = True
    has_loss = False

    def __init__(self, bare: Contestant, exchange: Contestant) -> None:
        """Both set up by the time of the first step."""
        self._bare, self._exchange = bare, exchange

    def setup(self, workload: Workload) -> None: ...

    def step(self) -> float:
        thread = threading.Thread(target=self._exchange.step, name="exchange")
        thread.start()
        self._bare.step()
        thread.join()
        return math.nan

    def turn(self) -> AbstractContextManager[None]:
        return self._bare.turn()


class _Recorded(Ours):
    """Ours, on one lane that notes what it is asked to move."""

    def _start_runtime(self, workload: Workload) -> Runtime:
        runtime = super()._start_runtime(workload)
        self.recorder = Recorder(GlooTransport("main"))
        collectives = Collectives(cast(Transport, self.recorder), runtime.spans)
        streams = dict.fromkeys(runtime.streams, InlineStream(collectives))
        return replace(runtime, collectives=collectives, streams=streams, serial_streams=streams)


class Recorder:
    """A transport that notes each call, to be made again on ordinary numbers of the same size."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.calls: list[partial] = []

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._transport, name)

        def call(*arguments: Any, **options: Any) -> Any:
            again = {key: _like(value) for key, value in options.items()}
            self.calls.append(partial(operation, *map(_like, arguments), **again))
            return operation(*arguments, **options)

        return call


def _like(argument: Any) -> Any:
    """Ordinary numbers for a tensor: its own may be denormal by then. Anything else as it is."""
    return torch.full_like(argument, 0.01) if isinstance(argument, Tensor) else argument

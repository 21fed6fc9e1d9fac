"""Ours, and bare compute: the same step without its collectives."""

import math

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
from ndtrain.runtime.dtypes import DTYPES
from ndtrain.runtime.runtime import Runtime, start_cpu, still


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

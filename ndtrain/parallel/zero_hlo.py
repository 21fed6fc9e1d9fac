"""ZeRO's step as a graph that torch-xla hands to a compiler, against the schedule of its buckets.

    found = bucket_lowering(shape, tp=1, dp=4, rank=0, in_background=True)    # a Comparison

The step is that of a narrow copy of the model, two layers deep: widths and depth change how many
buckets there are, and nothing in what waits for what. Traced in one process; nothing runs.
"""

from dataclasses import replace

import torch

from ndtrain.config.schema import Optim
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.models.qwen3.shape import Shape
from ndtrain.overlap.bucket_lowering import compare_buckets
from ndtrain.overlap.hlo import HloGraph
from ndtrain.overlap.lowering import Comparison
from ndtrain.overlap.modes import BLOCKING, Modes
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.recompute import Recompute, recompute
from ndtrain.parallel.zero import device_rate
from ndtrain.parallel.zero_traced import TracedAdamW
from ndtrain.runtime.mesh import axis_lines
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.xla import hlo_text, trace_xla

NUM_BUCKETS = 4  # of matrices, about: several are complete inside backward
BATCH = 1


def bucket_lowering(shape: Shape, tp: int, dp: int, rank: int, in_background: bool) -> Comparison:
    """rank: of tp x dp."""
    runtime = trace_xla(rank, tp, dp, shape.num_kv_heads)
    step = TracedStep.of(narrow(shape, tp), runtime, in_background)
    graph = HloGraph.read(step.hlo())
    return compare_buckets(step.optimizer.traffic.schedule, graph, axis_lines(tp, dp)["data"])


def narrow(shape: Shape, tp: int) -> Shape:
    """Two layers of the same form, as narrow as `tp` ranks allow."""
    return replace(
        shape,
        vocab_size=4 * tp,
        hidden_size=16,
        intermediate_size=4 * tp,
        num_layers=2,
        head_dim=8,
    )


class TracedStep:
    """One step of one micro-batch, about to be recorded."""

    def __init__(self, model: Qwen3, optimizer: TracedAdamW, runtime: Runtime) -> None:
        self.model, self.optimizer, self.runtime = model, optimizer, runtime

    @classmethod
    def of(
        cls,
        shape: Shape,
        runtime: Runtime,
        in_background: bool,
        modes: Modes = BLOCKING,
        dtype: torch.dtype = torch.float32,
        recomputed: Recompute = "none",
    ) -> "TracedStep":
        with torch.device("meta"):
            model = Qwen3(shape, "reference")  # the kernels have no collective inside
        shards = parallelize(model, runtime, modes)
        matrices = sum(one.numel() for one in model.parameters() if one.ndim > 1)
        optimizer = TracedAdamW(
            model,
            shards,
            RandomWeights(shape, seed=0),
            runtime,
            Optim(),
            dtype,
            bucket_bytes=4 * matrices // NUM_BUCKETS,
            in_background=in_background,
        )
        recompute(model, recomputed, runtime.trace)
        return cls(model, optimizer, runtime)

    def hlo(self) -> str:
        """The graph of everything that the step leaves behind."""
        return hlo_text(self.record())

    def record(self) -> list[torch.Tensor]:
        """Loss, norm, and what of parameters, gradients and optimizer another step would find."""
        device, optimizer = self.runtime.device, self.optimizer
        length = 2 * self.runtime.mesh.tensor.size
        tokens_BS = torch.zeros(BATCH, length, dtype=torch.int64, device=device)
        weights_BS = torch.ones(BATCH, length, device=device)
        optimizer.begin()
        optimizer.traffic.arm()
        loss = self.model.loss(tokens_BS, tokens_BS, weights_BS)
        loss.backward()
        norm = optimizer.record(device_rate(1e-3, device), loss.detach())
        left = [loss.detach(), norm]
        for bucket in optimizer.buckets:
            left += [bucket.values, bucket.master, bucket.gradients]
            left += optimizer.state_of(bucket).values()
        return left

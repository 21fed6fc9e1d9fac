"""ZeRO-1 (Rajbhandari et al. 2020, arXiv:1910.02054): AdamW, its state sharded over the data axis.

    optimizer = ShardedAdamW(model, shards, source, runtime, settings, torch.bfloat16)
    loss.backward()                      # gradients accumulate in fp32, over micro-batches too
    norm = optimizer.step(lr)            # reduce-scatter, clip, AdamW on own part, all-gather

`step` is collective over the whole mesh. Master weights, both moments and accumulated gradients are
fp32 (fp64 when computing in fp64); the update is torch.optim.AdamW's.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

import torch
from torch import Tensor, nn

from ndtrain.config.schema import Optim
from ndtrain.core.errors import Unhealthy
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.apply import Source, replace_parameter
from ndtrain.parallel.bucket import Bucket
from ndtrain.parallel.gradients import sum_replicated_gradients
from ndtrain.parallel.shard import Shard
from ndtrain.runtime.runtime import Runtime

BUCKET_ELEMENTS = 32 * 2**20  # 128 MB of fp32 gradients: near the peers' 130 MB (NxD), 128 MiB


class ShardedAdamW:
    def __init__(
        self,
        model: Qwen3,
        shards: Mapping[str, Shard],
        source: Source,
        runtime: Runtime,
        settings: Optim,
        dtype: torch.dtype,
    ) -> None:
        """Gives the model's parameters (meta until now) memory and the source's values."""
        self.shards = shards
        self.runtime = runtime
        self.clip_norm = settings.clip_norm
        self.buckets: list[Bucket] = []
        groups = []
        for decays, names in _bucket_names(model):
            values = {
                name: source.read(name, shards[name].dim, shards[name].bounds()) for name in names
            }
            bucket = Bucket(f"bucket{len(self.buckets)}", values, runtime.mesh.data, dtype)
            self.buckets.append(bucket)
            weight_decay = settings.weight_decay if decays else 0.0
            groups.append({"params": [bucket.master], "weight_decay": weight_decay})
            _attach(model, bucket)
        self.adamw = torch.optim.AdamW(
            groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True
        )

    @torch.no_grad()
    def step(self, lr: float) -> float:
        """Updates the parameters; returns the global L2 norm of the gradient before clipping.

        Raises Unhealthy, before anything changes, if the norm is not finite.
        """
        sum_replicated_gradients(self._main_gradients(), self.shards, self.runtime)
        for bucket in self.buckets:
            bucket.master.grad = self.runtime.collectives.reduce_scatter(
                bucket.gradients, self.runtime.mesh.data, bucket.name
            )
        norm = self._global_norm()
        if not torch.isfinite(torch.tensor(norm)):
            raise Unhealthy(
                f"the gradient's norm is {norm}",
                "the optimizer step, before the weights changed",
                "look at the data of this step, or lower optim.lr",
            )
        if self.clip_norm is not None and norm > self.clip_norm:
            for bucket in self.buckets:
                bucket.own_gradient.mul_(self.clip_norm / norm)
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        self._publish()
        return norm

    def _main_gradients(self) -> dict[str, Tensor]:
        return {
            member.name: bucket.view(bucket.gradients, member)
            for bucket in self.buckets
            for member in bucket.members
        }

    def _global_norm(self) -> float:
        total = torch.zeros(1, dtype=torch.float64)
        for bucket in self.buckets:
            for start, stop, num_replicas in bucket.norm_segments(self.shards):
                square = bucket.own_gradient[start:stop].norm().double().square()
                total += square / num_replicas
        mesh = self.runtime.mesh
        return self.runtime.collectives.all_reduce(total, mesh.world, "gradient_norm").sqrt().item()

    def _publish(self) -> None:
        """Own master weights -> every rank's parameters; empties the gradients."""
        for bucket in self.buckets:
            bucket.master.grad = None
            bucket.gradients.zero_()
            if bucket.values.dtype != bucket.master.dtype:
                bucket.own_values.copy_(bucket.master)
            if self.runtime.mesh.data.size > 1:
                values = self.runtime.collectives.all_gather(
                    bucket.own_values, self.runtime.mesh.data, bucket.name
                )
                bucket.values.copy_(values)


def _bucket_names(model: nn.Module) -> Iterator[tuple[bool, list[str]]]:
    """(whether weight decay applies, names): matrices from the last layer to the first, then norms.

    Backward finishes the last layers first, so a bucket's members are complete about together.
    """
    parameters = list(model.named_parameters())[::-1]
    size = 0

    def index(item: tuple[str, nn.Parameter]) -> int:
        nonlocal size
        size += item[1].numel()
        return size // BUCKET_ELEMENTS

    matrices = [item for item in parameters if item[1].ndim > 1]
    for _, items in groupby(matrices, key=index):
        yield True, [name for name, _ in items]
    yield False, [name for name, parameter in parameters if parameter.ndim == 1]


def _attach(model: Qwen3, bucket: Bucket) -> None:
    """Makes the parameters views of the bucket, and their gradients flow into it."""
    for member in bucket.members:
        parameter = replace_parameter(model, member.name, bucket.view(bucket.values, member))
        parameter.register_post_accumulate_grad_hook(
            _accumulate_into(bucket.view(bucket.gradients, member))
        )


def _accumulate_into(total: Tensor) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        total.add_(parameter.grad)
        parameter.grad = None

    return hook

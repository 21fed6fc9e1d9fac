"""ZeRO-1 (Rajbhandari et al. 2020, arXiv:1910.02054): AdamW, its state sharded over the data axis.

    optimizer = ShardedAdamW(model, shards, source, runtime, settings, torch.bfloat16)
    optimizer.traffic.arm()              # before the last micro-batch
    loss.backward()                      # gradients accumulate in fp32, over micro-batches too
    norm = optimizer.step(lr)            # reduce-scatter, clip, AdamW on own part, all-gather

`step` is collective over the whole mesh. Master weights, both moments and accumulated gradients are
fp32 (fp64 when computing in fp64); the update is torch.optim.AdamW's.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from ndtrain.config.schema import Optim
from ndtrain.core.errors import Unhealthy
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.apply import EMBEDDING, Source, replace_parameter
from ndtrain.parallel.bucket import Bucket
from ndtrain.parallel.data_parallel import BucketTraffic
from ndtrain.parallel.shard import Shard
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.streams import Pending

# fp32 gradients of one bucket where nothing hides: near the peers' 130 MB (NxD) and 128 MiB
# (Megatron-Bridge). Behind compute, smaller ones start earlier: `overlap.bucket_megabytes`.
BLOCKING_BUCKET_BYTES = 128 * 10**6
# Moves no weight that fp32 tells from 0, and its product with a bias correction is no subnormal.
SMALLEST_RATE = 1e-30


class ShardedAdamW:
    def __init__(
        self,
        model: Qwen3,
        shards: Mapping[str, Shard],
        source: Source,
        runtime: Runtime,
        settings: Optim,
        dtype: torch.dtype,
        bucket_bytes: int = BLOCKING_BUCKET_BYTES,
        in_background: bool = False,
        serial: bool = False,
    ) -> None:
        """Gives the model's parameters (meta until now) memory and the source's values.

        bucket_bytes: of fp32 gradients. in_background: whether buckets travel behind compute.
        serial: they travel when they would then, and everything waits for them.
        """
        self.shards = shards
        self.runtime = runtime
        self.clip_norm = settings.clip_norm
        self.buckets: list[Bucket] = []
        self._updates: list[torch.optim.AdamW] = []  # one a bucket: they take turns
        place = runtime.place(runtime.mesh.data)
        for decays, names in bucket_names(model, bucket_bytes // 4):
            values = {
                name: source.read(name, shards[name].dim, shards[name].bounds()) for name in names
            }
            name = f"bucket{len(self.buckets)}"
            bucket = Bucket(name, values, place, dtype, runtime.device)
            self.buckets.append(bucket)
            weight_decay = settings.weight_decay if decays else 0.0
            self._updates.append(self._adamw(bucket.master, settings, weight_decay))
            _attach(model, bucket)
        self.traffic = BucketTraffic(model, self.buckets, shards, runtime, in_background, serial)
        self._readers: list[Pending] = []

    def hold(self, readers: Sequence[Pending]) -> None:
        """The next update waits until these have ended: they read the state, for a snapshot."""
        self._readers = [one for one in (*self._readers, *readers) if not one.is_done]

    @torch.no_grad()
    def step(self, lr: float, loss: float = 0.0) -> float:
        """Updates the parameters; returns the global L2 norm of the gradient before clipping.

        Raises Unhealthy on all ranks, before anything changes, if the norm is not finite, or the
        loss of any rank.
        """
        self.traffic.reduce()
        norm = self._global_norm(loss)
        if not math.isfinite(norm):
            raise not_finite(norm)
        limit = self.clip_norm
        is_clipped = limit is not None and norm > limit
        factor = self._number(limit / norm) if limit is not None and is_clipped else None
        device = self.runtime.device
        rate = lr if device.type == "cpu" else device_rate(lr, device)

        def update(index: int) -> None:
            if factor is not None:
                self.buckets[index].own_gradient.mul_(factor)
            (group,) = self._updates[index].param_groups
            group["lr"] = rate
            self._updates[index].step()

        for reader in self._readers:
            reader.wait_until_ended()
        self._readers.clear()
        self.traffic.update(torch.tensor(norm), update)
        return norm

    def _number(self, value: float) -> float | Tensor:
        """What changes from step to step: on a device a tensor, or a compiler may build it in."""
        device = self.runtime.device
        return value if device.type == "cpu" else torch.tensor(value).to(device)

    def state_of(self, bucket: Bucket) -> dict[str, Tensor]:
        """AdamW's of a bucket's own range, empty before the first update; may be changed."""
        return self._updates[self.buckets.index(bucket)].state[bucket.master]

    def _adamw(
        self, master: nn.Parameter, settings: Optim, weight_decay: float
    ) -> torch.optim.AdamW:
        if master.device.type != "cpu":
            return device_adamw(master, settings, weight_decay)
        return torch.optim.AdamW(
            [master],
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=weight_decay,
            fused=True,
        )

    def discard(self) -> None:
        """Forgets the gradients of a step that was refused."""
        self.traffic.discard()

    def _global_norm(self, loss: float) -> float:
        # 0, or NaN for a loss that is not finite: the ranks learn of it without a collective more.
        total = torch.full((1,), 0.0 * loss, dtype=torch.float64)
        norms, copies = [], []
        for bucket in self.buckets:
            for start, stop, num_replicas in bucket.norm_segments(self.shards):
                norms.append(bucket.own_gradient[start:stop].norm())
                copies.append(num_replicas)
        if norms:  # to the host in one piece: the device may have no fp64
            for norm, num_replicas in zip(torch.stack(norms).cpu(), copies, strict=True):
                total += norm.double().square() / num_replicas
        mesh = self.runtime.mesh
        return self.runtime.collectives.all_reduce(total, mesh.world, "gradient_norm").sqrt().item()


def device_adamw(master: nn.Parameter, settings: Optim, weight_decay: float) -> torch.optim.AdamW:
    """With the number of updates and the rate on the device, and moments from the start."""
    device = master.device
    adamw = torch.optim.AdamW(
        [master],
        lr=device_rate(settings.lr, device),
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=weight_decay,
        foreach=False,
        capturable=True,
    )
    zeros = torch.zeros(master.shape, dtype=master.dtype)
    adamw.state[master] = {
        "step": torch.tensor(0.0).to(device),
        "exp_avg": zeros.to(device),
        "exp_avg_sq": zeros.to(device),
    }
    return adamw


def device_rate(lr: float, device: torch.device) -> Tensor:
    """[1], what `device_adamw` calls lr.

    A vector: of a scalar that is 0 or 1 torch-xla makes a constant, and the step is compiled again.
    Never 0: torch's AdamW divides by the rate there, and where a moment is 0 too, 0 by 0.
    """
    return torch.tensor([max(lr, SMALLEST_RATE)]).to(device)


def not_finite(norm: float) -> Unhealthy:
    """A step that must not change the weights. norm: the gradient's."""
    return Unhealthy(
        f"loss or gradient is not finite: the gradient's norm is {norm}",
        "the optimizer step, before the weights changed",
        "look at the data of this step, or lower optim.lr",
    )


def bucket_names(model: nn.Module, max_elements: int) -> Iterator[tuple[bool, list[str]]]:
    """(whether weight decay applies, names): matrices from the last layer to the first, then norms.

    Backward finishes the last layers first, so a bucket's members are complete about together. The
    embedding, which comes last and is needed first, has a bucket of its own.
    """
    parameters = list(model.named_parameters())[::-1]
    size = 0

    def place(item: tuple[str, nn.Parameter]) -> tuple[int, bool]:
        nonlocal size
        size += item[1].numel()
        return size // max_elements, item[0] == EMBEDDING

    matrices = [item for item in parameters if item[1].ndim > 1]
    for _, items in groupby(matrices, key=place):
        yield True, [name for name, _ in items]
    yield False, [name for name, parameter in parameters if parameter.ndim == 1]


def _attach(model: Qwen3, bucket: Bucket) -> None:
    """Makes the parameters views of the bucket."""
    for member in bucket.members:
        replace_parameter(model, member.name, bucket.view(bucket.values, member))

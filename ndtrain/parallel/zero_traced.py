"""ZeRO-1 in a traced step: what the host decides elsewhere is decided in the graph.

    optimizer = TracedAdamW(model, shards, source, runtime, settings, torch.bfloat16)
    optimizer.begin()                        # before every step
    optimizer.traffic.arm()
    loss.backward()
    norm = optimizer.record(lr, loss)        # tensors; nothing has run yet

A step whose loss or gradient is not finite leaves weights, moments and gradients as they were: the
host learns of it from the norm, after the graph has run. The learning rate is an argument of the
graph, not a constant in it. The norm is summed in fp32: NeuronCores have no fp64.
"""

from functools import cached_property

import torch
from torch import Tensor, nn

from ndtrain.config.schema import Optim
from ndtrain.parallel.zero import ShardedAdamW, device_adamw


class TracedAdamW(ShardedAdamW):
    def _adamw(
        self, master: nn.Parameter, settings: Optim, weight_decay: float
    ) -> torch.optim.AdamW:
        return device_adamw(master, settings, weight_decay)

    @torch.no_grad()
    def begin(self) -> None:
        """The next step reads its parameters from the buckets, whoever has read them before.

        torch-xla keeps what a view was when it was last read. After an evaluation the step would
        read those tensors instead of the buckets: another graph, and it would be compiled again.
        """
        for bucket in self.buckets:
            for buffer in (bucket.values, bucket.gradients):
                buffer.copy_(buffer.clone())

    def late_gradients(self) -> list[Tensor]:
        """Of each bucket; who reads them waits for backward. Not to be kept until the step runs."""
        return [bucket.late_gradient for bucket in self.buckets]

    @torch.no_grad()
    def record(self, lr: Tensor, loss: Tensor) -> Tensor:
        """The update; returns the global L2 norm [1] of the gradient before clipping.

        lr: `zero.device_rate`. loss: of this rank, any shape; not finite, the norm is not.
        Collective over the mesh.
        """
        self.traffic.reduce()
        with self.runtime.compute("buckets.norm"):
            norm = self._recorded_norm(loss)
        is_sound = torch.isfinite(norm)
        limit = self.clip_norm
        scale = None if limit is None else (limit / norm).clamp(max=1.0)
        gradients = [bucket.gradients.clone() for bucket in self.buckets]

        def update(index: int) -> None:
            bucket, adamw = self.buckets[index], self._updates[index]
            if scale is not None:
                bucket.master.grad = bucket.own_gradient * scale
            (group,) = adamw.param_groups
            group["lr"] = lr
            state = [bucket.master, *self.state_of(bucket).values()]
            before = [tensor.clone() for tensor in state]
            adamw.step()
            for tensor, old in zip(state, before, strict=True):
                tensor.copy_(torch.where(is_sound, tensor, old).view(tensor.shape))

        self.traffic.update(norm, update)
        for bucket, refused in zip(self.buckets, gradients, strict=True):
            bucket.gradients.copy_(torch.where(is_sound, bucket.gradients, refused))
        return norm

    @cached_property
    def _norm_weights(self) -> list[Tensor]:
        """Data, as what a rank owns depends on its place: all ranks record the same graph."""
        device = self.runtime.device
        return [bucket.norm_weights(self.shards).to(device) for bucket in self.buckets]

    def _recorded_norm(self, loss: Tensor) -> Tensor:
        total = 0.0 * loss.sum().float().reshape(1)
        for bucket, weights in zip(self.buckets, self._norm_weights, strict=True):
            runs = bucket.own_gradient.view(len(weights), -1)
            total = total + (runs.square().sum(1).float() * weights).sum()
        mesh = self.runtime.mesh
        return self.runtime.collectives.all_reduce(total, mesh.world, "gradient_norm").sqrt()

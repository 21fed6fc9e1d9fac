"""Gradients of what several tensor ranks hold copies of.

Norm weights (also Qwen3's q_norm and k_norm) are whole on every tensor rank, but each rank saw
only its tokens or heads; key/value rows are shared by `num_replicas` neighbours once there are
more ranks than key/value heads. Their gradients are partial sums: one small all-reduce over the
tensor axis, one over the sharing neighbours.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ndtrain.parallel.shard import Shard
from ndtrain.runtime.mesh import Axis
from ndtrain.runtime.runtime import Runtime


def sum_replicated_gradients(
    gradients: Mapping[str, Tensor], shards: Mapping[str, Shard], runtime: Runtime
) -> None:
    """In place, on the local gradients; collective over the tensor axis."""
    mesh = runtime.mesh
    whole: list[Tensor] = []
    shared: list[Tensor] = []
    for name, gradient in gradients.items():
        row = 0
        for part in shards[name].slices:
            if part.num_replicas > 1:
                copies = whole if len(shards[name].slices) == 1 else shared
                copies.append(gradient.narrow(shards[name].dim, row, part.size))
            row += part.size
    _sum(whole, mesh.tensor, "replicated_gradients", runtime)
    _sum(shared, mesh.key_value, "key_value_gradients", runtime)


def _sum(views: list[Tensor], axis: Axis, name: str, runtime: Runtime) -> None:
    if axis.size == 1 or not views:
        return
    flat = torch.cat([view.reshape(-1) for view in views])
    total = runtime.collectives.all_reduce(flat, axis, name)
    for view, part in zip(views, total.split([view.numel() for view in views]), strict=True):
        view.copy_(part.view_as(view))

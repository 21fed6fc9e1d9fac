"""A bucket: parameters that travel together, laid end to end in flat buffers.

The module's parameters are views of `values` (compute dtype), their accumulated gradients views of
`gradients` (fp32; fp64 when computing in fp64). Each data-parallel rank owns one equal range of the
bucket, [start, stop), and for it the master weights in the same wide dtype: when computing in that
dtype they are the same memory as `values`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ndtrain.ops.norm import wide
from ndtrain.parallel.shard import Shard
from ndtrain.runtime.mesh import Axis


@dataclass(frozen=True)
class Member:
    name: str
    shape: torch.Size
    offset: int  # of its first element in the bucket

    @property
    def stop(self) -> int:
        return self.offset + self.shape.numel()


class Bucket:
    def __init__(
        self,
        name: str,
        initial: Mapping[str, Tensor],
        axis: Axis,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        """initial: local values by parameter name, in the order of the bucket; on the CPU.

        device: where the buffers lie; None: on the CPU.
        """
        self.name = name
        self.members: list[Member] = []
        size = 0
        for parameter, value in initial.items():
            self.members.append(Member(parameter, value.shape, size))
            size += value.numel()
        padded = size + -size % axis.size
        part = padded // axis.size
        self.start, self.stop = axis.rank * part, (axis.rank + 1) * part

        flat = torch.zeros(padded, dtype=wide(dtype))
        for member in self.members:
            self.view(flat, member).copy_(initial[member.name])
        flat = flat.to(device or "cpu")
        own = flat[self.start : self.stop]
        self.values = flat.to(dtype)
        self.master = nn.Parameter(own if flat.dtype == dtype else own.clone())
        self.gradients = torch.zeros_like(flat)

    def view(self, flat: Tensor, member: Member) -> Tensor:
        return flat[member.offset : member.stop].view(member.shape)

    @property
    def own_gradient(self) -> Tensor:
        """The reduced gradient of the own range, between reduce-scatter and update."""
        assert self.master.grad is not None
        return self.master.grad

    @property
    def own_values(self) -> Tensor:
        return self.values[self.start : self.stop]

    def norm_segments(self, shards: Mapping[str, Shard]) -> list[tuple[int, int, int]]:
        """(start, stop, number of tensor ranks that hold a copy) over the own range.

        Positions count from the own range's first element.
        """
        segments = []
        for member in self.members:
            shard = shards[member.name]
            per_row = member.shape.numel() // member.shape[shard.dim]
            position = member.offset
            for part in shard.slices:
                # Along dim 1 there is one slice: the member as a whole.
                stop = position + part.size * per_row
                low, high = max(position, self.start), min(stop, self.stop)
                if low < high:
                    segments.append((low - self.start, high - self.start, part.num_replicas))
                position = stop
        return segments

"""A bucket: parameters that travel together, laid end to end in flat buffers.

The module's parameters are views of `values` (compute dtype), their accumulated gradients views of
`gradients` (fp32; fp64 when computing in fp64). Each data-parallel rank owns one equal range of the
bucket, [start, stop), and for it the master weights in the same wide dtype: when computing in that
dtype they are the same memory as `values`, unless the rank's place is data: a range that a graph
does not know cannot be a view.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ndtrain.ops.norm import wide
from ndtrain.parallel.shard import Shard
from ndtrain.runtime.place import Place


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
        place: Place,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        """initial: local values by parameter name, in the order of the bucket; on the CPU.

        place: on the axis that shares the bucket. device: where the buffers lie; None: on the CPU.
        """
        self.name = name
        self._place = place
        self.members: list[Member] = []
        size = 0
        for parameter, value in initial.items():
            self.members.append(Member(parameter, value.shape, size))
            size += value.numel()
        padded = size + -size % place.size
        part = padded // place.size
        self.start, self.stop = place.rank * part, (place.rank + 1) * part

        flat = torch.zeros(padded, dtype=wide(dtype))
        for member in self.members:
            self.view(flat, member).copy_(initial[member.name])
        there = flat.to(device or "cpu")
        self.values = there.to(dtype)
        self.gradients = torch.zeros_like(there)
        self._is_shared = there.dtype == dtype and not place.is_data
        # A range that no graph may know is cut out on the host.
        own = (flat if place.is_data else there)[self.start : self.stop].to(there.device)
        self.master = nn.Parameter(own if self._is_shared else own.clone())

    def view(self, flat: Tensor, member: Member) -> Tensor:
        return flat[member.offset : member.stop].view(member.shape)

    @property
    def late_gradient(self) -> Tensor:
        """The part of `gradients` that a backward adds to last: a view."""
        return self.view(self.gradients, self.members[-1])

    @property
    def own_gradient(self) -> Tensor:
        """The reduced gradient of the own range, between reduce-scatter and update."""
        assert self.master.grad is not None
        return self.master.grad

    def updated(self) -> Tensor:
        """The own range in the compute dtype, of the master weights as they are: what is gathered.

        Where the own range is a view of `values` it is up to date there too.
        """
        if self._place.is_data:
            return self.master.detach().to(self.values.dtype)
        own = self.values[self.start : self.stop]
        return own if self._is_shared else own.copy_(self.master)

    def norm_segments(self, shards: Mapping[str, Shard]) -> list[tuple[int, int, int]]:
        """(start, stop, number of tensor ranks that hold a copy) over the own range.

        Positions count from the own range's first element.
        """
        segments = []
        for start, stop, num_replicas in self._segments(shards):
            low, high = max(start, self.start), min(stop, self.stop)
            if low < high:
                segments.append((low - self.start, high - self.start, num_replicas))
        return segments

    def norm_weights(self, shards: Mapping[str, Shard]) -> Tensor:
        """[n]: 1 / number of tensor ranks that hold a copy, of n equal runs of the own range.

        The same numbers as data: n is the same on all ranks, and one where nothing differs.
        """
        segments, part = self._segments(shards), self.stop - self.start
        edges = [start for (_, _, before), (start, _, own) in pairwise(segments) if before != own]
        run = math.gcd(part, *edges)
        weights = torch.ones(self.values.numel() // run)  # the padding has no gradient
        for start, stop, num_replicas in segments:
            weights[start // run : -(-stop // run)] = 1 / num_replicas
        return weights[self.start // run : self.stop // run]

    def _segments(self, shards: Mapping[str, Shard]) -> list[tuple[int, int, int]]:
        """(start, stop, number of tensor ranks that hold a copy) over the whole bucket."""
        segments = []
        for member in self.members:
            shard = shards[member.name]
            per_row = member.shape.numel() // member.shape[shard.dim]
            position = member.offset
            for part in shard.slices:
                # Along dim 1 there is one slice: the member as a whole.
                stop = position + part.size * per_row
                segments.append((position, stop, part.num_replicas))
                position = stop
        return segments

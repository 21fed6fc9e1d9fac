"""The optimizer's state as pieces under parameter names, and back: ZeRO ranges of flat buckets.

    pieces = list(state_pieces(training))            # (Piece, tensor): what this rank writes
    load_moments(training, checkpoint.state)         # what this rank owns, from any layout's pieces
    MasterWeights(checkpoint)                        # a source of weights for a run that goes on

A rank owns one range of each bucket; cut at the edges of parameters and of their slices it becomes
pieces. Tensor ranks that hold a copy of a slice have equal state for it: the first one writes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ndtrain.checkpoint.format import FIRST_MOMENT, MASTER, SECOND_MOMENT, Piece
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.state import OptimizerState
from ndtrain.parallel.bucket import Bucket
from ndtrain.parallel.shard import Shard
from ndtrain.parallel.zero import ShardedAdamW

MOMENTS = (FIRST_MOMENT, SECOND_MOMENT)


class MasterWeights:
    """Full precision where the checkpoint has it; without master weights, the weights are it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, name: str, dim: int, slices: Sequence[tuple[int, int]]) -> Tensor:
        state = self._checkpoint.state
        if state.has(MASTER):
            return state.read(MASTER, name, dim, slices)
        return self._checkpoint.read(name, dim, slices)


@dataclass(frozen=True, slots=True)
class OwnPart:
    """Elements [begin, end) of the own range: elements [start, stop) of a slice of a parameter."""

    name: str
    dim: int
    bounds: tuple[int, int]
    start: int
    stop: int
    begin: int
    is_first_copy: bool

    @property
    def end(self) -> int:
        return self.begin + self.stop - self.start


def own_parts(bucket: Bucket, shards: dict[str, Shard], tensor_rank: int) -> Iterator[OwnPart]:
    for member in bucket.members:
        shard = shards[member.name]
        per_row = member.shape.numel() // member.shape[shard.dim]
        position = member.offset
        for part in shard.slices:
            # Along dim 1 there is one slice, the member as a whole: it is contiguous too.
            end = position + part.size * per_row
            low, high = max(position, bucket.start), min(end, bucket.stop)
            if low < high:
                yield OwnPart(
                    member.name,
                    shard.dim,
                    (part.start, part.stop),
                    low - position,
                    high - position,
                    low - bucket.start,
                    tensor_rank % part.num_replicas == 0,  # copies lie on neighbouring ranks
                )
            position = end


def state_pieces(
    optimizer: ShardedAdamW, shards: dict[str, Shard]
) -> Iterator[tuple[Piece, Tensor]]:
    """Views of the state that this rank writes. Before the first update there are no moments."""
    tensor_rank = optimizer.runtime.mesh.tensor.rank
    for bucket in optimizer.buckets:
        state = optimizer.state_of(bucket)
        flat = {kind: readable(state[kind]) if kind in state else None for kind in MOMENTS}
        if bucket.values.dtype != bucket.master.dtype:  # else the weights are the master weights
            flat[MASTER] = readable(bucket.master.detach())
        for part in own_parts(bucket, shards, tensor_rank):
            for kind, values in flat.items():
                if values is not None and part.is_first_copy:
                    elements = (part.start, part.stop)
                    piece = Piece(part.name, part.dim, (part.bounds,), kind, elements)
                    yield piece, values[part.begin : part.end]


def readable(flat: Tensor) -> Tensor:
    """A bucket's buffer as pieces are cut from it: on torch-xla on the host, where no cut is a
    graph to compile.
    """
    return flat.cpu() if flat.device.type == "xla" else flat


@torch.no_grad()
def load_moments(
    optimizer: ShardedAdamW, shards: dict[str, Shard], state: OptimizerState, num_updates: int
) -> None:
    """num_updates: that the moments have seen, for AdamW's bias correction."""
    tensor_rank = optimizer.runtime.mesh.tensor.rank
    if not state.has(FIRST_MOMENT):
        return
    for bucket in optimizer.buckets:
        master, device = bucket.master, bucket.master.device
        moments = {kind: torch.zeros(master.shape, dtype=master.dtype) for kind in MOMENTS}
        for part in own_parts(bucket, shards, tensor_rank):
            for kind, values in moments.items():
                values[part.begin : part.end] = state.read_flat(
                    kind, part.name, part.dim, part.bounds, part.start, part.stop
                )
        optimizer.state_of(bucket).update(
            step=torch.tensor(float(num_updates)).to(device),
            **{kind: values.to(device) for kind, values in moments.items()},
        )


def num_updates(optimizer: ShardedAdamW) -> int:
    """Updates that were made: fewer than steps where a bad gradient was skipped."""
    state = optimizer.state_of(optimizer.buckets[0])
    return int(state["step"].item()) if state else 0

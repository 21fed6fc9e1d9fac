"""What a step sends between ranks, counted from the shape of the workload: no schedule, no run.

    layout = Layout(tp=2, dp=2, rank=0)
    transfers_of(workload, layout, "tensor")                     # forward and backward
    transfers_of(workload, layout, "data", bucket_bytes=4e6)     # gradients and weights of ZeRO-1

The least that tensor and sequence parallelism move with activations kept at 1/t: in front of q|k|v
and gate|up the tokens are gathered, behind o and down they are reduced; backward does the mirror
image, and gathers once more what forward did not keep (Korthikanti et al. 2022, arXiv:2205.05198).
Of an embedding travel the rows that tokens touch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ndtrain.bench.batch import make_batch
from ndtrain.bench.workload import Workload, of_replica
from ndtrain.ops.loss import rows_in_chunk
from ndtrain.ops.norm import wide
from ndtrain.runtime.dtypes import DTYPES

AxisName = Literal["tensor", "data"]


@dataclass(frozen=True)
class Layout:
    """Ranks count along the tensor axis first."""

    tp: int
    dp: int
    rank: int

    @property
    def tensor_rank(self) -> int:
        return self.rank % self.tp

    @property
    def data_rank(self) -> int:
        return self.rank // self.tp

    def peers(self, axis: AxisName) -> tuple[int, ...]:
        """World ranks of the axis through this rank, this rank among them."""
        if axis == "tensor":
            first = self.rank - self.tensor_rank
            return tuple(range(first, first + self.tp))
        return tuple(range(self.tensor_rank, self.tp * self.dp, self.tp))


@dataclass(frozen=True)
class Transfer:
    """Elements that go to each peer and come from it; none to itself. is_summed: they are added."""

    peers: tuple[int, ...]
    sent: tuple[int, ...]
    received: tuple[int, ...]
    dtype: torch.dtype
    is_summed: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(self.sent) * self.dtype.itemsize


def transfers_of(
    workload: Workload, layout: Layout, axis: AxisName, bucket_bytes: int = 0
) -> list[Transfer]:
    """In their order.

    bucket_bytes: of fp32 gradients that travel together; 0 where no optimizer adds gradients up.
    """
    if len(layout.peers(axis)) == 1:
        return []
    if axis == "tensor":
        return list(_of_tensor_axis(workload, layout, adds_up=bucket_bytes > 0))
    return list(_of_data_axis(workload, layout, bucket_bytes))


class _Even:
    """Transfers of as much to each peer of an axis as comes from it."""

    def __init__(self, layout: Layout, axis: AxisName) -> None:
        self._peers, self._rank = layout.peers(axis), layout.rank

    def gather(self, num_elements: int, dtype: torch.dtype) -> Transfer:
        """num_elements: of each rank's part."""
        counts = tuple(0 if peer == self._rank else num_elements for peer in self._peers)
        return Transfer(self._peers, counts, counts, dtype)

    def scatter(self, num_elements: int, dtype: torch.dtype) -> Transfer:
        counts = self.gather(num_elements, dtype).sent
        return Transfer(self._peers, counts, counts, dtype, is_summed=True)


def _of_tensor_axis(workload: Workload, layout: Layout, adds_up: bool) -> Iterator[Transfer]:
    shape, dtype, even = workload.shape, DTYPES[workload.dtype], _Even(layout, "tensor")
    num_tokens = workload.sequence_length * workload.batch_size
    own = num_tokens // layout.tp * shape.hidden_size
    gather, scatter = even.gather(own, dtype), even.scatter(own, dtype)
    forward, backward = _embedding_rows(workload, layout)
    yield forward
    yield from [gather, scatter] * 2 * shape.num_layers
    yield gather  # the head's tokens; of the statistics three numbers each
    rows = rows_in_chunk(shape.vocab_size // layout.tp, wide(dtype))
    for first in range(0, num_tokens, rows):
        yield even.gather(3 * min(rows, num_tokens - first), wide(dtype))
    yield scatter
    # Of a row-parallel product dy is gathered; of a column-parallel one x, and dx is reduced.
    yield from [gather, gather, scatter] * 2 * shape.num_layers
    yield backward
    yield even.gather(_num_norm_weights(workload), wide(dtype) if adds_up else dtype)


def _num_norm_weights(workload: Workload) -> int:
    shape = workload.shape
    of_heads = 2 * shape.head_dim if shape.qk_norm else 0
    return shape.num_layers * (2 * shape.hidden_size + of_heads) + shape.hidden_size


def _embedding_rows(workload: Workload, layout: Layout) -> tuple[Transfer, Transfer]:
    """A token's row comes from the rank that holds it, its gradient goes there."""
    tokens_BS, _ = make_batch(of_replica(workload, layout.data_rank))
    num_rows = workload.shape.vocab_size // layout.tp
    owners = [block // num_rows for block in tokens_BS.t().chunk(layout.tp)]  # of rows, by reader
    own, width = layout.tensor_rank, workload.shape.hidden_size

    def rows(reader: int, owner: int) -> int:
        return 0 if reader == owner else int((owners[reader] == owner).sum()) * width

    served = tuple(rows(reader, own) for reader in range(layout.tp))
    needed = tuple(rows(own, owner) for owner in range(layout.tp))
    peers, dtype = layout.peers("tensor"), DTYPES[workload.dtype]
    return Transfer(peers, served, needed, dtype), Transfer(peers, needed, served, dtype)


def _of_data_axis(workload: Workload, layout: Layout, bucket_bytes: int) -> Iterator[Transfer]:
    """Gradients in the wide dtype to the rank that updates them, then its weights to all."""
    shape, dtype, even = workload.shape, DTYPES[workload.dtype], _Even(layout, "data")
    width, has_rows = wide(dtype), not shape.tie_embeddings
    embedding = shape.vocab_size // layout.tp * shape.hidden_size
    others = _num_matrix_elements(workload, layout.tp) - embedding
    sizes = [*_divided(others, bucket_bytes // width.itemsize), _num_norm_weights(workload)]
    owned = [-(-size // layout.dp) for size in sizes]
    yield from (even.scatter(size, width) for size in owned)
    if has_rows:
        yield _touched_rows(workload, layout, width)
        yield _touched_rows(workload, layout, dtype, updated=True)
    else:
        yield even.scatter(embedding // layout.dp, width)
    yield from (even.gather(size, dtype) for size in (*owned, embedding // layout.dp))


def _num_matrix_elements(workload: Workload, tp: int) -> int:
    """Of one tensor rank; a tied head is the embedding."""
    shape = workload.shape
    attention = (2 * shape.query_dim + 2 * shape.kv_dim) * shape.hidden_size
    layer = attention + 3 * shape.intermediate_size * shape.hidden_size
    vocabulary = (1 if shape.tie_embeddings else 2) * shape.vocab_size * shape.hidden_size
    return (shape.num_layers * layer + vocabulary) // tp


def _divided(total: int, most: int) -> list[int]:
    """`total` in parts of `most`, the last one smaller."""
    return [min(most, total - first) for first in range(0, total, most)]


def _touched_rows(
    workload: Workload, layout: Layout, dtype: torch.dtype, updated: bool = False
) -> Transfer:
    """Gradients of the rows that a replica's tokens touch go to the rows' owners; updated, back."""
    touched = [_touched(workload, layout, replica) for replica in range(layout.dp)]
    own, hidden = layout.data_rank, workload.shape.hidden_size

    def rows(replica: int, owner: int) -> int:
        return 0 if replica == owner else int(touched[replica][owner].sum()) * hidden

    mine = tuple(rows(own, owner) for owner in range(layout.dp))
    theirs = tuple(rows(replica, own) for replica in range(layout.dp))
    sent, received = (theirs, mine) if updated else (mine, theirs)
    return Transfer(layout.peers("data"), sent, received, dtype, is_summed=not updated)


def _touched(workload: Workload, layout: Layout, replica: int) -> Tensor:
    """[d, rows of one owner]: which rows of this tensor rank's vocabulary a replica's tokens touch.

    Where d does not divide the rows, the last ones are left out: it is a count, not an address.
    """
    tokens_BS, _ = make_batch(of_replica(workload, replica))
    num_rows = workload.shape.vocab_size // layout.tp
    local = tokens_BS.flatten() - layout.tensor_rank * num_rows
    touched = torch.zeros(num_rows, dtype=torch.bool)
    touched[local[(local >= 0) & (local < num_rows)]] = True
    return touched[: num_rows // layout.dp * layout.dp].unflatten(0, (layout.dp, -1))

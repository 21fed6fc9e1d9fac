"""An embedding between data ranks, where what travels may depend on the data: on a CPU.

    own = sum_touched_rows(gradient, collectives, axis, "buckets.scatter_9", track)
    fetch_rows(values, rows, collectives, axis, "buckets.gather_9.rows", track)

Most rows of a large vocabulary are touched by no token of a batch: their gradient is zero, and the
next forward does without them. The gradient travels without those rows, and the rows that forward
begins with come ahead of the whole. It matters because this gradient is the last that backward
completes and these weights are the first that forward needs: there is nothing to hide them behind.

V: rows of the embedding held here, d: data ranks; each owns V/d rows.
"""

import torch
from torch import Tensor

from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.mesh import Axis


def sum_touched_rows(
    gradient_VH: Tensor, collectives: Collectives, axis: Axis, name: str, track: str
) -> Tensor:
    """[V, H] of each data rank -> own rows of the sum, [V/d, H]; d divides V.

    Added in rank order, like a reduce-scatter: the bits are the same.
    """
    # NaN is not 0: what is not finite is found where it arrives, like everything else.
    touched_V = torch.linalg.vector_norm(gradient_VH, torch.inf, dim=1) != 0
    touched_dV = collectives.all_gather(touched_V.to(torch.uint8)[None], axis, name, track).bool()
    touched = touched_dV.unflatten(1, (axis.size, -1))  # [from whom, whose, V/d]
    parts = gradient_VH.unflatten(0, (axis.size, -1))
    came: dict[int, Tensor] = {}
    for shift in range(1, axis.size):
        target, source = (axis.rank + shift) % axis.size, (axis.rank - shift) % axis.size
        sent = parts[target][touched[axis.rank, target]]
        num_rows = int(touched[source, axis.rank].sum())
        came[source] = exchange_rows(sent, num_rows, collectives, axis, shift, name, track)
    own = torch.zeros_like(parts[axis.rank])
    for rank in range(axis.size):
        if rank == axis.rank:
            own += parts[rank]
        else:
            own[touched[rank, axis.rank]] += came[rank]
    return own


def fetch_rows(
    values_VH: Tensor, rows: Tensor, collectives: Collectives, axis: Axis, name: str, track: str
) -> None:
    """Writes the rows that this rank wants into values, from whoever owns them; d divides V.

    rows: of any shape, any order and number; what lies outside [0, V) is passed over. Each rank's
    own V/d rows are right before, and are the others' source.
    """
    num_rows = values_VH.shape[0]
    wanted_V = torch.zeros(num_rows, dtype=torch.uint8)
    wanted_V[rows[(rows >= 0) & (rows < num_rows)]] = 1
    wanted_dV = collectives.all_gather(wanted_V[None], axis, name, track).bool()
    wanted = wanted_dV.unflatten(1, (axis.size, -1))  # [who, whose, V/d]
    parts = values_VH.unflatten(0, (axis.size, -1))
    for shift in range(1, axis.size):
        target, source = (axis.rank + shift) % axis.size, (axis.rank - shift) % axis.size
        sent = parts[axis.rank][wanted[target, axis.rank]]
        mine = wanted[axis.rank, source]
        num_mine = int(mine.sum())
        parts[source][mine] = exchange_rows(sent, num_mine, collectives, axis, shift, name, track)


def exchange_rows(
    sent: Tensor,
    num_received: int,
    collectives: Collectives,
    axis: Axis,
    shift: int,
    name: str,
    track: str,
) -> Tensor:
    """[.., H] to rank + shift; returns [num_received, H] from rank - shift.

    All ranks make the same calls: a row of nothing stands for none.
    """
    if not len(sent):
        sent = sent.new_zeros(1, sent.shape[1])
    out = sent.new_empty(max(num_received, 1), sent.shape[1])
    return collectives.permute(sent, axis, shift, name, track, out)[:num_received]

"""The bytes of a step, moved by torch.distributed alone, and beside compute that waits for none.

    exchange = PlainExchange(layout, ("tensor",))
    beside = Beside(PlainStep(layout), exchange)

What is moved is counted by `transfers.py`. Nothing of `overlap/` and `parallel/` is in it, which a
linter holds: what it says of a machine, it says of any implementation that moves the same.
"""

import math
import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ndtrain.bench.contestant import Contestant
from ndtrain.bench.plain_compute import NUMBER
from ndtrain.bench.transfers import AxisName, Layout, Transfer, transfers_of
from ndtrain.bench.workload import Workload


class PlainExchange(Contestant):
    """The transfers of a step over some axes, back to back, with no compute between them.

    Compute and exchange, one after the other, are what blocking collectives can reach at best, by
    any implementation that moves these bytes over this link.
    """

    uses_all_ranks = True
    has_loss = False

    def __init__(
        self,
        layout: Layout,
        axes: Sequence[AxisName],
        bucket_bytes: int = 0,
        name: str = "exchange",
    ) -> None:
        """bucket_bytes: of the gradients that travel together, where the data axis is among them.

        All transfers go over the default group, from one thread at a time.
        """
        self.name = name
        self._layout, self._axes, self._bucket_bytes = layout, axes, bucket_bytes

    def setup(self, workload: Workload) -> None:
        self.transfers = [
            transfer
            for axis in self._axes
            for transfer in transfers_of(workload, self._layout, axis, self._bucket_bytes)
        ]
        most: dict[torch.dtype, int] = {}
        for one in self.transfers:
            needed = 2 * max(one.sent + one.received) + sum(one.received)
            most[one.dtype] = max(most.get(one.dtype, 0), needed)
        self._memory = {dtype: torch.full((n,), NUMBER, dtype=dtype) for dtype, n in most.items()}

    def step(self) -> float:
        for transfer in self.transfers:
            _exchange(transfer, self._layout.rank, self._memory[transfer.dtype])
        return math.nan


def _exchange(transfer: Transfer, rank: int, memory: Tensor) -> None:
    """memory: for what is sent, the same to all peers; for a sum; and for what comes."""
    peers, own = transfer.peers, transfer.peers.index(rank)
    most = max(transfer.sent + transfer.received)
    sizes = [most, most, *transfer.received]
    outgoing, total, *incoming = memory[: sum(sizes)].split(sizes)
    pending: list[Any] = []
    for distance in range(1, len(peers)):
        # Each rank begins with its next neighbour: nobody is everybody's first target.
        target, source = (own + distance) % len(peers), (own - distance) % len(peers)
        if transfer.received[source]:
            pending.append(dist.irecv(incoming[source].view(torch.uint8), peers[source]))
        if transfer.sent[target]:
            sent = outgoing[: transfer.sent[target]]
            pending.append(dist.isend(sent.view(torch.uint8), peers[target]))
    for work in pending:
        work.wait()
    if transfer.is_summed:
        for part in incoming:
            torch.add(part, outgoing[: len(part)], out=total[: len(part)])


class Beside(Contestant):
    """Compute while a second thread moves the bytes of a step; neither waits for the other.

    What this machine allows to whoever moves these bytes behind this compute: moving them takes
    cycles from it.
    """

    name = "beside"
    uses_all_ranks = True
    has_loss = False

    def __init__(self, compute: Contestant, exchange: Contestant) -> None:
        """Both set up by the time of the first step."""
        self._compute, self._exchange = compute, exchange

    def setup(self, workload: Workload) -> None: ...

    def step(self) -> float:
        thread = threading.Thread(target=self._exchange.step, name="exchange")
        thread.start()
        self._compute.step()
        thread.join()
        return math.nan

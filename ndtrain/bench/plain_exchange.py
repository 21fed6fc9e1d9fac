"""The bytes of a step, moved by torch.distributed alone: back to back, and with compute.

    exchange = PlainExchange(layout, ("tensor",))
    blocking = Together("blocking", PlainStep(layout), in_turn=exchange)
    beside = Together("beside", PlainStep(layout), beside=exchange)

What is moved is counted by `transfers.py`. Nothing of `overlap/` and `parallel/` is in it, which a
linter holds: what it says of a machine, it says of any implementation that moves the same.
"""

import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ndtrain.bench.contestant import Contestant
from ndtrain.bench.plain_compute import NUMBER, PlainStep
from ndtrain.bench.transfers import AxisName, Layout, Transfer, transfers_of
from ndtrain.bench.workload import Workload


class PlainExchange(Contestant):
    """The transfers of a step over some axes, back to back, with no compute between them."""

    uses_all_ranks = True
    has_loss = False

    def __init__(
        self,
        layout: Layout,
        axes: Sequence[AxisName],
        bucket_bytes: int = 0,
        name: str = "exchange",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """bucket_bytes: of the gradients that travel together, where the data axis is among them.

        group: of all ranks, which one thread at a time may use; None: the default group.
        """
        self.name, self._group = name, group
        self._layout, self._axes, self._bucket_bytes = layout, axes, bucket_bytes
        self.transfers: list[Transfer] = []

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
            self.move(transfer)
        return math.nan

    def move(self, transfer: Transfer) -> None:
        """One of `transfers`."""
        _exchange(transfer, self._layout.rank, self._memory[transfer.dtype], self._group)


def _exchange(
    transfer: Transfer, rank: int, memory: Tensor, group: dist.ProcessGroup | None
) -> None:
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
            part = incoming[source].view(torch.uint8)
            pending.append(dist.irecv(part, peers[source], group))
        if transfer.sent[target]:
            sent = outgoing[: transfer.sent[target]]
            pending.append(dist.isend(sent.view(torch.uint8), peers[target], group))
    for work in pending:
        work.wait()
    if transfer.is_summed:
        for part in incoming:
            torch.add(part, outgoing[: len(part)], out=total[: len(part)])


class _InTurn:
    """A step's transfers, each moved when compute takes it."""

    def __init__(self, exchange: PlainExchange) -> None:
        self._exchange, self._left = exchange, deque(exchange.transfers)

    def take(self, count: int) -> None:
        for _ in range(count):
            self._exchange.move(self._left.popleft())

    def take_gathers(self) -> None:
        while not self._left[0].is_summed:
            self.take(1)

    def take_rest(self) -> None:
        self.take(len(self._left))


class Together(Contestant):
    """Compute and the transfers of a step, which it waits for or does not.

    Waiting for all is what blocking collectives reach. Waiting for none is what this machine allows
    to whoever moves these bytes behind this compute: moving them takes cycles from it.
    """

    uses_all_ranks = True
    has_loss = False

    def __init__(
        self,
        name: str,
        compute: PlainStep,
        in_turn: PlainExchange | None = None,
        behind: PlainExchange | None = None,
        beside: PlainExchange | None = None,
    ) -> None:
        """Compute waits for each transfer of `in_turn` (of the tensor axis) where it needs it, for
        those of `behind` (of the data axis) at the end, and for none of `beside`, which a second
        thread moves.
        """
        self.name = name
        self._compute, self._in_turn, self._behind = compute, in_turn, behind
        self._beside = beside

    def setup(self, workload: Workload) -> None:
        """Of what is no contestant itself; the compute is one."""
        for exchange in (self._in_turn, self._behind, self._beside):
            if exchange is not None and not exchange.transfers:
                exchange.setup(workload)

    def step(self) -> float:
        thread = None
        if self._beside is not None:
            thread = threading.Thread(target=self._beside.step, name="exchange")
            thread.start()
        self._blocking_step()
        if thread is not None:
            thread.join()
        return math.nan

    def _blocking_step(self) -> None:
        if self._in_turn is None:
            self._compute.step()
        else:
            turns = _InTurn(self._in_turn)
            with self._compute.waiting_for(turns):
                self._compute.step()
            turns.take_rest()
        if self._behind is not None:
            self._behind.step()

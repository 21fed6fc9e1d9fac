"""What a contestant of a measurement has to offer."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from ndtrain.bench.workload import Workload


class Contestant(Protocol):
    """One way to compute a workload. Constructed, set up and stepped on every rank, in one order.

    name: short and unique. uses_all_ranks: False if rank 0 works alone while the others wait.
    has_loss: False if nothing is exchanged between ranks, so that the loss means nothing.
    """

    name: str
    uses_all_ranks: bool
    has_loss: bool

    def setup(self, workload: Workload) -> None:
        """Builds the model with the workload's weights. A process group of all ranks exists."""

    def step(self) -> float:
        """Forward and backward; gradients are complete, replicas' too, when it returns.

        Returns the loss; on ranks that only wait, NaN.
        """
        ...

    def turn(self) -> AbstractContextManager[None]:
        """Around a timed step: what it does before and after is not timed."""
        return nullcontext()

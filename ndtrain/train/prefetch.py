"""Input prefetch: the next batches are made on the `host` stream while this step computes.

    prefetch = Prefetch(loader, rows, runtime)
    batches, num_targets = prefetch.take(wants_next=True)    # of the loader's position

The loader's position is the run's: this only reads ahead of it, with a loader of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ndtrain.core.errors import UserError
from ndtrain.data.batch import Batch
from ndtrain.data.loader import Loader
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.streams import Pending, StreamError

NAME = "input"


class Input(NamedTuple):
    """Of one step on one rank: its micro-batches, and the targets of the whole global batch."""

    batches: list[Batch]
    num_targets: int


class Prefetch:
    def __init__(self, loader: Loader, rows: Sequence[slice], runtime: Runtime) -> None:
        """rows: of a global batch, that this rank computes, in micro-batches."""
        self._loader, self._rows, self._runtime = loader, rows, runtime
        self._pending: Pending | None = None
        self._state: dict[str, int] = {}  # that the pending input belongs to

    def take(self, wants_next: bool) -> Input:
        """The input at the loader's position; begins the one behind it.

        Raises UserError for data that make no batch.
        """
        if self._pending is not None and self._state == self._loader.state():
            own = self._wait(self._pending)
        else:
            own = self._read(self._loader)
        self._pending = self._begin() if wants_next else None
        return own

    def _begin(self) -> Pending:
        ahead = self._loader.ahead()
        self._state = ahead.state()

        def work(collectives: Collectives) -> Input:
            with collectives.spans.span(NAME, "dma"):
                return self._read(ahead)

        return self._runtime.streams["host"].submit(NAME, work)

    def _read(self, loader: Loader) -> Input:
        return Input([loader.batch(part) for part in self._rows], loader.num_targets())

    def _wait(self, pending: Pending) -> Input:
        try:
            return pending.wait()
        except StreamError as error:
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from None
            raise

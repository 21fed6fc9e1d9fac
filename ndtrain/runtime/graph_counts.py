"""How many graphs a process compiled or found, where each operation or region is one of its own.

with graphs.counting():
    before = graphs.counts()
    ...
    graphs.counts().since(before)       # Counts(compiled=80, found=4, missed=80)
"""

from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol


class Counts(NamedTuple):
    """Graphs of this process. found: on the disk, None where nobody counts. missed: not found.

    Of those missed another rank may have compiled some meanwhile: then they are found as well.
    Where nobody counts, new files stand for `compiled` and `missed`, whoever wrote them.
    """

    compiled: int
    found: int | None
    missed: int

    def since(self, before: "Counts") -> "Counts":
        found = None
        if self.found is not None and before.found is not None:
            found = self.found - before.found
        return Counts(self.compiled - before.compiled, found, self.missed - before.missed)

    @property
    def is_nothing(self) -> bool:
        return not any(self)

    @property
    def found_at_once(self) -> int:
        """Without those that another rank compiled meanwhile; 0 where nobody counts."""
        return 0 if self.found is None else self.found - (self.missed - self.compiled)

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.compiled} new entries"
        return f"{self.compiled} graphs compiled here, {self.found} found"


class CountedGraphs(Protocol):
    def entries(self) -> frozenset[str]:
        """What is kept on the disk, of all ranks: paths; none where it cannot be looked into."""
        ...

    def counting(self) -> AbstractContextManager[None]:
        """Inside, the process counts."""
        ...

    def counts(self) -> Counts:
        """So far, and only while it was counted."""
        ...

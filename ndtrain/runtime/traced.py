"""A step that is recorded as one graph and run afterwards: what such a runtime adds.

On a lazy device nothing runs when it is called, so there are no streams. What counts is the graph:
which instruction depends on which, and the order in which collectives were recorded.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from ndtrain.runtime.compilation import Compiled


class Trace(Protocol):
    @property
    def compiled(self) -> Sequence[Compiled]:
        """Every graph that was compiled or loaded in a `run`, in this order."""
        ...

    def scope(self, name: str) -> AbstractContextManager[None]:
        """Instructions recorded inside carry the name where the graph keeps names."""
        ...

    def tie(self, x: Tensor, after: Sequence[Tensor]) -> Tensor:
        """The value of x, computed from the first element of each of `after` too; all floating.

        It stays so when a compiler has simplified the graph. The same bits; where one of those
        elements is not finite, all of it is not: they have to be of what the step is refused for.
        One pass over x, which a compiler may join with the instruction that reads it.
        """
        ...

    def run(self, name: str, note: Callable[[str], None]) -> None:
        """Runs what is recorded: every tensor that is still referred to gets its value.

        name: what a person would call the graph; `note` is told while it compiles.
        """
        ...

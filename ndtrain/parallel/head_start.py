"""Begins the backward of a column-parallel product during that of the row-parallel one behind it.

    ctx.head_start = HeadStart()              # forward of the column's node of autograd
    node = column_before(ctx)                 # backward of the row's: what backward comes to next
    begin(node)                               # its x is on its way
    dx, dweight = ctx.head_start.finish(dy)   # backward of the column's

`overlap/early.py` says why. Which product comes next is read from autograd's graph. So it holds for
any model and for a loop of one's own; the graph is the same on all ranks, and with it the order of
their communications.
"""

from collections import deque
from typing import Any

from torch import Tensor

from ndtrain.overlap.early import AHEAD
from ndtrain.overlap.execute import Run

MAX_NODES = 64  # of the graph that are looked at; attention with its norms and RoPE has about 20


class HeadStart:
    """Of one call of a product: its backward, which may begin before its gradient is there."""

    def __init__(self) -> None:
        self._begun: tuple[Run, Tensor, Tensor] | None = None

    @property
    def is_taken(self) -> bool:
        return self._begun is not None

    def begin(self, run: Run, x: Tensor, weight: Tensor) -> None:
        """Both are kept until the end: what a checkpoint has saved can be read once only."""
        run.begin({AHEAD: x})
        self._begun = run, x, weight

    def finish(self, dy: Tensor) -> tuple[Tensor, ...]:
        assert self._begun is not None
        (run, x, weight), self._begun = self._begun, None
        return run.finish((dy, x, weight))


def column_before(node: Any) -> Any | None:
    """The nearest column-parallel product whose output the row-parallel one of `node` is made from.

    None if there is none with a head start, without another parallel product in between. node: of
    autograd, with attributes of its own (`linear.py`).
    """
    waiting, seen = deque([node]), {node}
    while waiting and len(seen) < MAX_NODES:
        for parent, _ in waiting.popleft().next_functions:
            if getattr(parent, "head_start", None) is not None:
                return parent
            if parent is None or parent in seen or hasattr(parent, "plan"):
                continue
            seen.add(parent)
            waiting.append(parent)
    return None


def begin(node: Any) -> None:
    """node: from `column_before`."""
    if not node.head_start.is_taken:
        node.head_start.begin(node.plan.run_of_backward(), *node.saved_tensors)

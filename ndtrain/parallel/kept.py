"""An operand that one node of autograd keeps and the node behind it reads in backward.

    kept.hold(ctx, x)      # in the forward of the node in front
    x = kept.read()        # once, in the backward of the node behind

Kept apart from the product that needs it, because recomputation under activation checkpointing
stops at the last tensor that backward needs: it stops before the product and its reduce-scatter,
whose results nobody needs again.
"""

from typing import Any

from torch import Tensor


class Kept:
    def __init__(self) -> None:
        self._context: Any = None
        self._plain: Tensor | None = None

    def hold(self, ctx: Any, x: Tensor) -> None:
        """ctx: of a node whose first input is x."""
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(x)
            self._context = ctx
        else:  # autograd drops what a node saves that no gradient reaches
            self._plain = x

    def read(self) -> Tensor:
        if self._plain is not None:
            return self._plain
        (x,) = self._context.saved_tensors
        return x

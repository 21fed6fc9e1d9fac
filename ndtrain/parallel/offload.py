"""Activation offload: what a block keeps for backward waits on the host and comes back in time.

    offload_activations(model, runtime)         # after `recompute`, once the parameters have memory

In forward each tensor that autograd keeps goes to the host on the `dma` stream while the next block
computes. In backward a block's tensors start back when the block behind it begins: one layer ahead.
At most two blocks' tensors wait for their way out at a time. Weights, and what all blocks share,
stay. On a CPU host and device are one memory: the path and the bits are the same, nothing is saved.
"""

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.streams import Pending

SMALLEST_BYTES = 16 * 1024  # less costs more in calls than it saves
BLOCKS_ON_THE_WAY = 2  # whose tensors leave before the next block has to wait


def offload_activations(model: Qwen3, runtime: Runtime) -> None:
    """Changes `forward` of the blocks in place; parameter names stay as they are."""
    weights = {_memory(parameter) for parameter in model.parameters()}
    blocks = [Offloaded(index, runtime, weights) for index in range(len(model.layers))]
    for block, layer in zip(blocks, model.layers, strict=True):
        block.before = blocks[: block.index]
        layer.forward = functools.partial(block.forward, layer.forward)


@dataclass(eq=False)
class Away:
    """A tensor on the host, or on its way there or back."""

    name: str
    stored: Pending
    device: torch.device
    stride: tuple[int, ...]  # compiled code wants back what it gave, a view as a view
    returning: Pending | None = None


@dataclass(eq=False)
class Offloaded:
    """One block: where its tensors are, in the order in which they were kept."""

    index: int
    runtime: Runtime
    weights: set[int]
    before: "list[Offloaded]" = field(default_factory=list)  # the blocks that run earlier
    # Weakly: what autograd needs no more is gone, on the host too.
    kept: "list[weakref.ref[Away]]" = field(default_factory=list)
    is_returning: bool = False

    def forward(self, inner: Callable[..., Tensor], x: Tensor, *shared: Any) -> Tensor:
        for block in self.before[:-BLOCKS_ON_THE_WAY]:
            block.wait_until_stored()
        self.kept, self.is_returning = [], False
        staying = self.weights | {_memory(y) for y in _tensors(shared)}
        known: dict[tuple, Away] = {}  # the same tensor may be kept by several functions
        held: list[Tensor] = []  # while `known` goes by its address, no other may get it

        def pack(y: Tensor) -> Any:
            if y.nbytes < SMALLEST_BYTES or not y.is_floating_point() or _memory(y) in staying:
                return y
            if _is_repeated(y):
                return y
            key = (y.data_ptr(), y.shape, y.stride(), y.dtype, y._version)
            if key not in known:
                held.append(y)
                known[key] = self._store(y)
            return known[key]

        with saved_tensors_hooks(pack, self._unpack):
            out = inner(x, *shared)
        # Autograd keeps `pack` as long as what it packed, and with it everything that was held.
        known.clear()
        held.clear()
        return out

    def wait_until_stored(self) -> None:
        for away in self._alive():
            away.stored.wait_until_ended()  # a host that ran ahead of its device would hold all
            away.stored.wait()

    def bring_back(self) -> None:
        """Starts the way back of everything, what backward needs first in front."""
        if self.is_returning:
            return
        self.is_returning = True
        for away in reversed(self._alive()):
            self._return(away)

    def _alive(self) -> list[Away]:
        return [away for ref in self.kept if (away := ref()) is not None]

    def _store(self, y: Tensor) -> Away:
        name = f"layers.{self.index}.offload.{len(self.kept)}"
        host = torch.empty(y.shape, dtype=y.dtype, device="cpu", pin_memory=y.device.type == "cuda")
        stored = self.runtime.streams["dma"].submit(
            f"{name}.out", lambda c: c.copy(y, f"{name}.out", host)
        )
        away = Away(name, stored, y.device, y.stride())
        self.kept.append(weakref.ref(away))
        return away

    def _return(self, away: Away) -> Pending:
        name = f"{away.name}.back"

        def work(collectives: Any) -> Tensor:
            host = away.stored.wait()
            out = torch.empty_strided(host.shape, away.stride, dtype=host.dtype, device=away.device)
            return collectives.copy(host, name, out)

        away.returning = self.runtime.streams["dma"].submit(name, work)
        return away.returning

    def _unpack(self, packed: Any) -> Tensor:
        if not isinstance(packed, Away):
            return packed
        self.bring_back()
        if self.before:
            self.before[-1].bring_back()
        returning = packed.returning or self._return(packed)
        packed.returning = None  # autograd has it now; whoever asks again gets another copy
        return returning.wait()


def _memory(x: Tensor) -> int:
    """Equal for tensors that lie in the same memory."""
    return x.untyped_storage().data_ptr()


def _is_repeated(x: Tensor) -> bool:
    """Whether elements share their memory: it holds less than it shows."""
    return any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True))


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [x for value in values for x in _tensors(value)]
    return []

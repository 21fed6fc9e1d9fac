"""What an op costs: floating-point operations, bytes that it must move, bytes that it works in.

    with CostCounter() as counter:
        loss = model(...)           # also on meta tensors
    counter.total                   # Cost
    counter.by_op                   # {"aten.mm": Cost, "ndtrain.attention": Cost, ...}

An ndtrain op registers a function of its arguments and result with `register_cost`; matmuls are
counted from their shapes. Everything else counts as bytes only: what it reads and writes.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula


@dataclass(frozen=True, slots=True)
class Cost:
    flops: int = 0  # a multiply-add counts two
    num_bytes: int = 0  # read once plus written once: the least a memory system has to move
    workspace_bytes: int = 0  # largest allocation beside inputs and outputs

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.num_bytes + other.num_bytes,
            max(self.workspace_bytes, other.workspace_bytes),
        )


_costs: dict[Any, Callable[..., Cost]] = {}

# They move no byte and are not views to the dispatcher: `_unsafe_view` ends every matmul of more
# than two dims.
_FREE = {
    torch.ops.aten._unsafe_view,
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
}


def register_cost(op: Any) -> Callable[[Callable[..., Cost]], Callable[..., Cost]]:
    """Registers `function(*args, result=..., **kwargs) -> Cost` for a custom op.

    PyTorch's own FlopCounterMode learns the FLOPs too, so that its count of a model is right.
    """
    packet = op._opoverload.overloadpacket

    def decorate(function: Callable[..., Cost]) -> Callable[..., Cost]:
        def flops(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
            return function(*args, result=out_val, **kwargs).flops

        register_flop_formula(packet, get_raw=True)(flops)
        _costs[packet] = function
        return function

    return decorate


def nbytes(*tensors: Any) -> int:
    """Bytes of all tensors among the arguments, which may be nested."""
    leaves = [leaf for leaf in tree_leaves(tensors) if isinstance(leaf, torch.Tensor)]
    return sum(math.prod(leaf.shape) * leaf.element_size() for leaf in leaves)


class CostCounter(TorchDispatchMode):
    """Counts the cost of every op that runs inside, by name. Works on meta tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.by_op: dict[str, Cost] = defaultdict(Cost)

    @property
    def total(self) -> Cost:
        return sum(self.by_op.values(), Cost())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.by_op[str(func._overloadpacket)] += _cost_of(func, args, kwargs, result)
        return result


def _cost_of(func: Any, args: tuple, kwargs: dict, result: Any) -> Cost:
    packet = func._overloadpacket
    if packet in _costs:
        return _costs[packet](*args, result=result, **kwargs)
    if func.is_view or packet in _FREE:
        return Cost()
    if packet is torch.ops.aten.index_select:  # it reads what it picks, not all there is
        return Cost(num_bytes=2 * nbytes(result) + nbytes(args[2]))
    formula = flop_registry.get(packet)
    flops = formula(*args, **kwargs, out_val=result) if formula else 0
    return Cost(flops, nbytes(args, kwargs, result))

"""The ops that read or write views, for a device that records values (xla).

    import ndtrain.ops.by_value      # registers them; `runtime/xla.py` does

Below an op torch-xla does not know which tensors share memory. What is written into a view is lost
without an error; what is read from a part of a tensor becomes a gather, whose index, eight bytes an
element, the host uploads as an argument of the graph. So on that device these compute by value, on
copies of the parts; the compiler plans the memory.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ndtrain.ops.rope import rope_reference, rotate
from ndtrain.ops.swiglu import (
    swiglu_backward,
    swiglu_backward_by_value,
    swiglu_forward,
    swiglu_reference,
)


def _on_copies(definition: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return functools.partial(definition, split=torch.split_copy)


rotate.register_kernel("xla")(_on_copies(rope_reference))
swiglu_forward.register_kernel("xla")(_on_copies(swiglu_reference))
swiglu_backward.register_kernel("xla")(_on_copies(swiglu_backward_by_value))

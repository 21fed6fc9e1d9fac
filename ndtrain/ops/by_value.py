"""The ops that write into views or into their arguments, for a device that records values (xla).

    import ndtrain.ops.by_value      # registers them; `runtime/xla.py` does

Below an op torch-xla does not know which tensors share memory: what is written into a view is lost
without an error. So on that device these compute by value; the compiler plans the memory.
"""

import torch
from torch import Tensor

from ndtrain.ops.norm import wide
from ndtrain.ops.rope import rope_reference, rotate
from ndtrain.ops.swiglu import swiglu_backward


@rotate.register_kernel("xla")
def _(x_SBND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rope_reference(x_SBND, cos, sin)


@swiglu_backward.register_kernel("xla")
def _(dy: Tensor, gate_up: Tensor) -> Tensor:
    gate, up = gate_up.to(wide(gate_up.dtype)).chunk(2, dim=-1)
    dy_wide = dy.to(gate.dtype)
    sigmoid = torch.sigmoid(gate)
    dgate = dy_wide * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat([dgate, dy_wide * gate * sigmoid], dim=-1).to(gate_up.dtype)

"""The ops that write into views or into their arguments, for a device that records values (xla).

    import ndtrain.ops.by_value      # registers them; `runtime/xla.py` does

Below an op torch-xla does not know which tensors share memory: what is written into a view is lost
without an error. So on that device these compute by value; the compiler plans the memory.
"""

from torch import Tensor

from ndtrain.ops.rope import rope_reference, rotate
from ndtrain.ops.swiglu import swiglu_backward, swiglu_backward_by_value


@rotate.register_kernel("xla")
def _(x_SBND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rope_reference(x_SBND, cos, sin)


swiglu_backward.register_kernel("xla")(swiglu_backward_by_value)

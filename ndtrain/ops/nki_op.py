"""ndtrain's NKI attention as an op that native PyTorch's compiler for Neuron can look into.

    register()          # once a process, before something with `ops.attention=nki` is compiled

`torch.compile(backend="neuron")` compiles a kernel together with what is around it where the kernel
is called by an op of `torch_neuronx.nki_op`; its shapes come from the kernel itself, its gradient
from `register_autograd` (Neuron SDK 2.33, torch/guides/how-to-work-with-nki). Never run on
hardware. Letters as in `attention.py`.
"""

import functools
import importlib

from torch import Tensor

from ndtrain.core.errors import UserError
from ndtrain.ops.nki_attention import ON_DEVICE


@functools.cache
def register() -> None:
    """Makes torch.ops.ndtrain.nki_attention. Raises UserError where the stack has no `nki_op`."""
    nki_op = getattr(importlib.import_module("torch_neuronx"), "nki_op", None)
    if nki_op is None:
        raise UserError(
            "this torch_neuronx has no `nki_op`, by which kernels become part of a compiled graph",
            "runtime.compile=true with ops.attention=nki",
            "install torch-neuronx 2.13 or later, or set runtime.compile=false",
        )
    forward = nki_op("ndtrain::nki_attention", mutates_args={})(_forward)
    backward = nki_op("ndtrain::nki_attention_backward", mutates_args={})(_backward)

    def gradients(ctx, dout: Tensor, _: Tensor):  # type: ignore[no-untyped-def]
        q, k, v, out, lse, starts = ctx.saved_tensors
        return *backward(dout, q, k, v, out, lse, starts, ctx.scale), None, None

    forward.register_autograd(gradients, setup_context=_setup)


def _forward(
    q_SBND: Tensor, k_SBKD: Tensor, v_SBKD: Tensor, starts_BS: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    return ON_DEVICE.forward(q_SBND, k_SBKD, v_SBKD, starts_BS, scale)


def _backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return ON_DEVICE.backward(dout, q, k, v, out, lse, starts, scale)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, starts, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output, starts)
    ctx.mark_non_differentiable(output[1])

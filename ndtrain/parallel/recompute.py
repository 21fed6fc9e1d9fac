"""Activation checkpointing of the plain or parallel model.

    recompute(model, "selective", runtime.trace)    # changes the modules in place

none: every activation is kept. selective: the attention core (QK-norm, RoPE, attention) and SwiGLU
are computed again in backward, and with them the inputs of o and down, which nobody keeps then:
large activations, few FLOPs. full: whole blocks, their gathers included. The reduce-scatter at the
end of what is run again is not, because recomputation stops at the last tensor that backward needs.

In a traced graph a compiler undoes this: it merges equal instructions, and may run early what is
ready. So there a recomputation waits for the gradient of its output (`runtime/traced.py`: `tie`).
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ndtrain.models.qwen3.model import MLP, Attention, Block, Qwen3
from ndtrain.runtime.traced import Trace

Recompute = Literal["none", "selective", "full"]

# What of a module is run again: a method of it.
_METHODS: dict[Recompute, dict[type[nn.Module], str]] = {
    "none": {},
    "selective": {Attention: "after_qkv", MLP: "after_gate_up"},
    "full": {Block: "forward"},
}
# No dropout anywhere: there is no random state to restore.
_checkpoint = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def recompute(model: Qwen3, mode: Recompute, trace: Trace | None = None) -> None:
    """Changes methods of the chosen modules in place; parameter names stay as they are.

    trace: of a runtime that records its step as one graph.
    """
    run = _checkpoint if trace is None else functools.partial(_recorded, trace)
    for module in model.modules():
        name = _METHODS[mode].get(type(module))
        if name is not None:
            setattr(module, name, functools.partial(run, getattr(module, name)))


def _recorded(trace: Trace, forward: Callable[..., Tensor], x: Tensor, *shared: Any) -> Tensor:
    """forward(x, *shared), recorded again in backward once the gradient of its result is there.

    shared: what all blocks read (rotary tables, starts of documents). It stays as it is: nothing of
    a block's size is computed from it alone.
    """
    gradients: list[Tensor] = []  # of the result; in forward there is none

    def run() -> Tensor:
        if not gradients:
            return forward(x, *shared)
        gradient = gradients.pop()
        again = trace.tie(x.detach(), after=[gradient])
        return forward(again.requires_grad_(x.requires_grad), *shared)

    # Without arguments: for tensors of xla among them torch 2.9 asks for a module `torch.xla`.
    y = _checkpoint(run)
    if y.requires_grad:
        y.register_hook(gradients.append)
    return y

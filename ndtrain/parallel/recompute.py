"""Activation checkpointing of the plain or parallel model.

none: every activation is kept. selective: the attention core (QK-norm, RoPE, attention) and SwiGLU
are computed again in backward: large activations, few FLOPs, no collective inside. full: whole
blocks, their gathers included; the last reduce-scatter of a block is not run again, because
recomputation stops at the last tensor that backward needs.
"""

import functools
from typing import Literal

from torch import nn
from torch.utils.checkpoint import checkpoint

from ndtrain.models.qwen3.model import AttentionCore, Block, Qwen3, SwiGLU

_MODULES: dict[str, tuple[type[nn.Module], ...]] = {
    "none": (),
    "selective": (AttentionCore, SwiGLU),
    "full": (Block,),
}


def recompute(model: Qwen3, mode: Literal["none", "selective", "full"]) -> None:
    """Changes `forward` of the chosen modules in place; parameter names stay as they are."""
    for module in model.modules():
        if isinstance(module, _MODULES[mode]):
            # No dropout anywhere: there is no random state to restore.
            module.forward = functools.partial(
                checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False
            )

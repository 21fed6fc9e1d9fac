"""What a rank computes between collectives: norms, attention core, SwiGLU.

    for name, module in local_modules(model): ...

The parallel linears, embedding and head run their products as nodes of schedules. The core's own
norms are part of the core: whatever is done to a region is done at its outer module.
"""

from collections.abc import Iterator

from torch import nn

from ndtrain.models.qwen3.model import AttentionCore, RMSNorm, SwiGLU

CORE = ".core."


def local_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of each region, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, (RMSNorm, AttentionCore, SwiGLU)) and CORE not in name:
            yield name, module


def region_of(name: str) -> str:
    """The module that is called first when `name` is: of the core's norms the core."""
    before, inside, _ = name.partition(CORE)
    return before + CORE.rstrip(".") if inside else name

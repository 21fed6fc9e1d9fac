"""Applies a shard table to a model on the meta device.

    with torch.device("meta"):
        model = Qwen3(shape)
    shards = parallelize(model, runtime)            # parameters shrink to their local shapes
    materialize(model, shards, source, dtype)       # and get values

`source.read(name, dim, slices)` gives the full parameter `name` or the given slices of it along
`dim`, in fp32: random weights (`initialize.py`), a Hugging Face folder or a checkpoint.
"""

import re
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.overlap.modes import BLOCKING, Modes
from ndtrain.parallel.shard import Shard
from ndtrain.parallel.shard_table import DECODER, Context, Style
from ndtrain.runtime.runtime import Runtime

EMBEDDING = "embedding.weight"


class Source(Protocol):
    def read(self, name: str, dim: int, slices: Sequence[tuple[int, int]]) -> Tensor: ...


def parallelize(
    model: Qwen3,
    runtime: Runtime,
    modes: Modes = BLOCKING,
    table: Sequence[tuple[str, Style]] = DECODER,
) -> dict[str, Shard]:
    """Replaces the modules that the table names; returns the shard of every parameter."""
    context = Context(runtime, modes)
    names = [name for name, module in model.named_modules() if name]
    shards: dict[str, Shard] = {}
    for pattern, style in table:
        expression = re.compile(re.escape(pattern).replace(r"\*", r"[^.]+"))
        for name in filter(expression.fullmatch, names):
            module = model.get_submodule(name)
            if isinstance(module, nn.Identity):  # the QK-norm of a Llama
                continue
            styled = style(module, model.shape, context, name)
            model.set_submodule(name, styled.module)
            shards |= {f"{name}.{own}": shard for own, shard in styled.shards.items()}
    if model.shape.tie_embeddings:
        shards.pop("head.weight")
    _shrink(model, shards)
    # Hugging Face's accelerate leaves a model that says this as it is. It would else wrap it in DDP
    # and sum gradients over ranks that hold different parameters.
    model._is_accelerate_prepared = True  # type: ignore[assignment]
    return shards


def _shrink(model: Qwen3, shards: dict[str, Shard]) -> None:
    parameters = dict(model.named_parameters())  # a tied head appears once, as the embedding
    missing = parameters.keys() ^ shards.keys()
    assert not missing, f"the shard table does not cover {sorted(missing)}"
    for name, shard in shards.items():
        local = torch.empty(shard.local_shape(parameters[name].shape), device="meta")
        replace_parameter(model, name, local)


def replace_parameter(model: Qwen3, name: str, value: Tensor) -> nn.Parameter:
    """Sets a parameter, and the head that is tied to it."""
    module_name, own = name.rsplit(".", 1)
    parameter = nn.Parameter(value)
    setattr(model.get_submodule(module_name), own, parameter)
    if name == EMBEDDING and model.shape.tie_embeddings:
        model.head.weight = parameter
    return parameter


def materialize(model: Qwen3, shards: dict[str, Shard], source: Source, dtype: torch.dtype) -> None:
    """Gives every parameter its own memory and its local part of the source's values."""
    for name, shard in shards.items():
        replace_parameter(model, name, source.read(name, shard.dim, shard.bounds()).to(dtype))

"""transformers' Qwen3 with the workload's weights: the same numbers as ours, by their names."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndtrain.bench.workload import Workload
from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.hugging_face import hugging_face_names, parameter_shapes, row_counts
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.runtime.dtypes import DTYPES


def require_transformers() -> None:
    """Loads transformers now, so that no step pays for it.

    Raises UserError, saying how to install it, where it is missing.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            "the peers need the package transformers, which is not installed",
            help="pip install 'ndtrain[peers]'",
        )
    importlib.import_module("transformers.models.qwen3.modeling_qwen3")


def build(workload: Workload) -> Any:
    """A `Qwen3ForCausalLM` on the meta device, its rotary table in memory; SDPA attention."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    fields = workload.shape.to_hugging_face(str(DTYPES[workload.dtype]).removeprefix("torch."))
    config = Qwen3Config(**fields)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    # A buffer that is computed, so it has no weight to come from.
    model.model.rotary_emb = Qwen3RotaryEmbedding(config)
    return model.train()


def weights(workload: Workload) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor in the workload's dtype) of every parameter of `build`, one at a time."""
    source = RandomWeights(workload.shape, workload.seed)
    for ours in parameter_shapes(workload.shape):
        row = 0
        counts = row_counts(ours, workload.shape)
        for theirs, count in zip(hugging_face_names(ours), counts, strict=True):
            value = source.read(ours, 0, [(row, row + count)])
            yield theirs, value.to(DTYPES[workload.dtype])
            row += count


def set_parameter(model: nn.Module, name: str, value: Tensor) -> None:
    module, _, own = name.rpartition(".")
    setattr(model.get_submodule(module), own, nn.Parameter(value))


def mean_cross_entropy(logits_BSV: Tensor, targets_BS: Tensor) -> Tensor:
    """In fp32, as transformers' own loss."""
    return F.cross_entropy(logits_BSV.flatten(0, 1).float(), targets_BS.flatten())

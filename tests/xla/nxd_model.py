"""A Llama or Qwen3 of neuronx-distributed's own layers, which cut their weights themselves.

    model = build(SHAPE, parameters, "fused")       # after initialize_model_parallel

Names of modules and options of the layers are those of NxD's examples/training/llama.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ndtrain.models.qwen3.shape import Shape
from tests.xla.nxd_checkout import module

Style = Literal["fused", "split", "coalesced", "separate"]


def heads_of_slots(shape: Shape, copies: int) -> list[int]:
    """Query heads in Trainium1's order: each rank has those that attend to its key/value head."""
    group = shape.num_heads // shape.num_kv_heads
    part = group // copies
    return [
        head * group + copy * part + index
        for copy in range(copies)
        for head in range(shape.num_kv_heads)
        for index in range(part)
    ]


def build(shape: Shape, ours: dict[str, Tensor], style: Style, copies: int = 1) -> nn.Module:
    """ours: whole parameters under our names. copies: of each key/value head."""
    model: Any = nn.Module()
    model.model = nn.Module()
    embedding = module("parallel_layers.layers").ParallelEmbedding
    model.model.embed_tokens = embedding(
        shape.vocab_size, shape.hidden_size, init_method=filled(ours["embedding.weight"])
    )
    layers = [_layer(shape, ours, index, style, copies) for index in range(shape.num_layers)]
    model.model.layers = nn.ModuleList(layers)
    model.model.norm = _scale(ours["norm.weight"])
    if shape.tie_embeddings:
        model.lm_head = _column(ours["embedding.weight"])
        model.lm_head.weight = model.model.embed_tokens.weight
    else:
        model.lm_head = _column(ours["head.weight"])
    return model


def _layer(
    shape: Shape, ours: dict[str, Tensor], index: int, style: Style, copies: int
) -> nn.Module:
    made, prefix = nn.Module(), f"layers.{index}."
    made.self_attn = _attention(shape, _below(ours, prefix + "attention."), style, copies)
    made.mlp = _mlp(_below(ours, prefix + "mlp."), style)
    made.input_layernorm = _scale(ours[prefix + "attention_norm.weight"])
    made.post_attention_layernorm = _scale(ours[prefix + "mlp_norm.weight"])
    return made


def _attention(shape: Shape, weights: dict[str, Tensor], style: Style, copies: int) -> nn.Module:
    made, order = nn.Module(), heads_of_slots(shape, copies)
    q, k, v = weights["qkv.weight"].split([shape.query_dim, shape.kv_dim, shape.kv_dim])
    q = q.unflatten(0, (shape.num_heads, -1))[order].flatten(0, 1)
    if style in ("fused", "split"):
        made.qkv_proj = _grouped([q, k, v], style == "fused", copies)
    elif style == "coalesced":
        made.qkv_proj = _column(torch.cat([q, k, v]), stride=3)
    else:
        made.q_proj, made.k_proj, made.v_proj = _column(q), _column(k), _column(v)
    made.o_proj = _row(weights["o.weight"].unflatten(1, (shape.num_heads, -1))[:, order].flatten(1))
    if shape.qk_norm:
        made.q_norm = _scale(weights["core.q_norm.weight"])
        made.k_norm = _scale(weights["core.k_norm.weight"])
    return made


def _mlp(weights: dict[str, Tensor], style: Style) -> nn.Module:
    made = nn.Module()
    if style == "separate":
        gate, up = weights["gate_up.weight"].chunk(2)
        made.gate_proj, made.up_proj = _column(gate), _column(up)
    else:
        made.gate_up_proj = _column(weights["gate_up.weight"], stride=2)
    made.down_proj = _row(weights["down.weight"])
    return made


def _column(value: Tensor, stride: int = 1) -> nn.Module:
    return module("parallel_layers.layers").ColumnParallelLinear(
        value.shape[1],
        value.shape[0],
        bias=False,
        gather_output=False,
        stride=stride,
        init_method=filled(value),
    )


def _row(value: Tensor) -> nn.Module:
    return module("parallel_layers.layers").RowParallelLinear(
        value.shape[1],
        value.shape[0],
        bias=False,
        input_is_parallel=True,
        init_method=filled(value),
    )


def _scale(value: Tensor) -> nn.Module:
    made = module("modules.rms_norm").RMSNorm(len(value))
    made.weight.data.copy_(value)
    return made


def filled(value: Tensor) -> Callable[[Tensor], Any]:
    """An initialization: the layer hands it the whole matrix, and cuts it afterwards."""

    def fill(weight: Tensor) -> None:
        with torch.no_grad():
            weight.copy_(value)

    return fill


def _grouped(matrices: list[Tensor], is_fused: bool, copies: int) -> nn.Module:
    """Queries, keys and values in one layer, which initializes them in this order."""
    left = iter(matrices)

    def fill_next(weight: Tensor) -> None:
        filled(next(left))(weight)

    q, k, _ = matrices
    return module("modules.qkv_linear").GQAQKVColumnParallelLinear(
        q.shape[1],
        [q.shape[0], k.shape[0]],
        bias=False,
        gather_output=False,
        init_method=fill_next,
        kv_size_multiplier=copies,
        fuse_qkv=is_fused,
    )


def _below(parameters: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in parameters.items()
        if name.startswith(prefix)
    }

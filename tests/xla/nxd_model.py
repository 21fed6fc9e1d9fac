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
    layers, norm = module("parallel_layers.layers"), module("modules.rms_norm").RMSNorm
    order = heads_of_slots(shape, copies)

    def column(value: Tensor, stride: int = 1) -> nn.Module:
        return layers.ColumnParallelLinear(
            value.shape[1],
            value.shape[0],
            bias=False,
            gather_output=False,
            stride=stride,
            init_method=filled(value),
        )

    def row(value: Tensor) -> nn.Module:
        return layers.RowParallelLinear(
            value.shape[1],
            value.shape[0],
            bias=False,
            input_is_parallel=True,
            init_method=filled(value),
        )

    def scale(value: Tensor) -> nn.Module:
        made = norm(len(value), eps=shape.rms_norm_eps)
        made.weight.data.copy_(value)
        return made

    def attention(weights: dict[str, Tensor]) -> nn.Module:
        made = nn.Module()
        q, k, v = weights["qkv.weight"].split([shape.query_dim, shape.kv_dim, shape.kv_dim])
        q = q.unflatten(0, (shape.num_heads, -1))[order].flatten(0, 1)
        if style in ("fused", "split"):
            made.qkv_proj = _grouped([q, k, v], style == "fused", copies)
        elif style == "coalesced":
            made.qkv_proj = column(torch.cat([q, k, v]), stride=3)
        else:
            made.q_proj, made.k_proj, made.v_proj = column(q), column(k), column(v)
        o = weights["o.weight"].unflatten(1, (shape.num_heads, -1))[:, order].flatten(1)
        made.o_proj = row(o)
        if shape.qk_norm:
            made.q_norm = scale(weights["core.q_norm.weight"])
            made.k_norm = scale(weights["core.k_norm.weight"])
        return made

    def mlp(weights: dict[str, Tensor]) -> nn.Module:
        made = nn.Module()
        if style == "separate":
            gate, up = weights["gate_up.weight"].chunk(2)
            made.gate_proj, made.up_proj = column(gate), column(up)
        else:
            made.gate_up_proj = column(weights["gate_up.weight"], stride=2)
        made.down_proj = row(weights["down.weight"])
        return made

    def layer(index: int) -> nn.Module:
        made, prefix = nn.Module(), f"layers.{index}."
        made.self_attn = attention(_below(ours, prefix + "attention."))
        made.mlp = mlp(_below(ours, prefix + "mlp."))
        made.input_layernorm = scale(ours[prefix + "attention_norm.weight"])
        made.post_attention_layernorm = scale(ours[prefix + "mlp_norm.weight"])
        return made

    model: Any = nn.Module()
    model.model = nn.Module()
    model.model.embed_tokens = layers.ParallelEmbedding(
        shape.vocab_size, shape.hidden_size, init_method=filled(ours["embedding.weight"])
    )
    model.model.layers = nn.ModuleList([layer(index) for index in range(shape.num_layers)])
    model.model.norm = scale(ours["norm.weight"])
    if shape.tie_embeddings:
        model.lm_head = column(ours["embedding.weight"])
        model.lm_head.weight = model.model.embed_tokens.weight
    else:
        model.lm_head = column(ours["head.weight"])
    return model


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

"""Folders as neuronx-distributed lays them out, written by its rules and not by the exporter."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ndtrain.models.qwen3.shape import Shape


def heads_of_ranks(shape: Shape, tp: int) -> tuple[list[int], list[int]]:
    """Query and key/value heads in Trainium1's order of slots, one after the other."""
    copies = max(1, tp // shape.num_kv_heads)
    group = shape.num_heads // shape.num_kv_heads
    query: list[int] = []
    for copy in range(copies):
        for head in range(shape.num_kv_heads):
            query += [head * group + copy * group // copies + i for i in range(group // copies)]
    return query, list(range(shape.num_kv_heads)) * copies


def by_heads(matrix: Tensor, heads: list[int], head_dim: int) -> Tensor:
    return torch.cat([matrix[head * head_dim : (head + 1) * head_dim] for head in heads])


def block_states(
    shape: Shape, layer: str, ours: dict[str, Tensor], tp: int, style: str
) -> list[dict[str, Tensor]]:
    query, kv = heads_of_ranks(shape, tp)
    qkv = ours["attention.qkv.weight"].split([shape.query_dim, shape.kv_dim, shape.kv_dim])
    q, k, v = (
        by_heads(matrix, heads, shape.head_dim).chunk(tp)
        for matrix, heads in zip(qkv, (query, kv, kv), strict=True)
    )
    o = by_heads(ours["attention.o.weight"].T, query, shape.head_dim).T.chunk(tp, 1)
    gate, up = (half.chunk(tp) for half in ours["mlp.gate_up.weight"].chunk(2))
    down = ours["mlp.down.weight"].chunk(tp, 1)
    states = []
    for rank in range(tp):
        parts = {"q": q[rank], "k": k[rank], "v": v[rank]}
        attention = {
            "fused": {"qkv_proj.weight_qkv": torch.cat(list(parts.values()))},
            "split": {f"qkv_proj.weight_{which}": part for which, part in parts.items()},
            "coalesced": {"qkv_proj.weight": torch.cat(list(parts.values()))},
            "separate": {f"{which}_proj.weight": part for which, part in parts.items()},
        }[style]
        state = {f"self_attn.{key}": value for key, value in attention.items()}
        state["self_attn.o_proj.weight"] = o[rank]
        if style == "separate":
            state |= {"mlp.gate_proj.weight": gate[rank], "mlp.up_proj.weight": up[rank]}
        else:
            state["mlp.gate_up_proj.weight"] = torch.cat([gate[rank], up[rank]])
        state["mlp.down_proj.weight"] = down[rank]
        state["input_layernorm.weight"] = ours["attention_norm.weight"]
        state["post_attention_layernorm.weight"] = ours["mlp_norm.weight"]
        if shape.qk_norm:
            state["self_attn.q_norm.weight"] = ours["attention.core.q_norm.weight"]
            state["self_attn.k_norm.weight"] = ours["attention.core.k_norm.weight"]
        states.append({f"{layer}.{key}": value for key, value in state.items()})
    return states


def rank_states(
    shape: Shape, parameters: dict[str, Tensor], tp: int, style: str
) -> list[dict[str, Tensor]]:
    head = parameters["embedding.weight" if shape.tie_embeddings else "head.weight"].chunk(tp)
    embedding = parameters["embedding.weight"].chunk(tp)
    states = [
        {
            "model.embed_tokens.weight": embedding[rank],
            "lm_head.weight": head[rank],
            "model.norm.weight": parameters["norm.weight"],
        }
        for rank in range(tp)
    ]
    for layer in range(shape.num_layers):
        prefix = f"layers.{layer}."
        ours = {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}
        blocks = block_states(shape, f"model.layers.{layer}", ours, tp, style)
        for state, block in zip(states, blocks, strict=True):
            state |= block
    return [{key: value.clone() for key, value in state.items()} for state in states]


def save(folder: Path, shape: Shape, states: list[dict[str, Tensor]]) -> Path:
    (folder / "step_7" / "model").mkdir(parents=True)
    for rank, state in enumerate(states):
        name = f"dp_rank_00_tp_rank_{rank:02d}_pp_rank_00.pt"
        torch.save(state, folder / "step_7" / "model" / name)
    (folder / "step_7" / "done").write_text("1")
    (folder / "config.json").write_text(json.dumps(shape.to_hugging_face("float32")))
    return folder


def save_optimizer(
    folder: Path,
    states: list[dict[str, Tensor]],
    kinds: dict[str, list[dict[str, Tensor]]],
    num_parts: int | None,
    num_updates: int = 7,
) -> None:
    """Beside what `save` wrote. states: tensors by rank; kinds: moments and perhaps `master` alike.

    num_parts: data-parallel ranks that share the state (ZeRO-1); None: it is not shared.
    """
    (folder / "step_7" / "optim").mkdir()
    for rank, state in enumerate(states):
        tied = state["model.embed_tokens.weight"].equal(state["lm_head.weight"])
        keys = [key for key in state if not (tied and key == "lm_head.weight")]
        keys.sort(key=lambda key: "norm" in key)  # two groups; the sort is stable
        num_matrices = sum("norm" not in key for key in keys)
        numbers = list(range(len(keys)))
        for part in range(num_parts or 1):

            def cut(tensor: Tensor, part: int = part) -> Tensor:
                size = num_parts or 1
                rows = -len(tensor) % size
                padded = F.pad(tensor, [0, 0] * (tensor.dim() - 1) + [0, rows])
                return padded.chunk(size)[part].clone()

            held: dict[int, dict[str, Any]] = {
                number: {
                    "step": torch.tensor(float(num_updates)),
                    **{kind: cut(kinds[kind][rank][key]) for kind in ("exp_avg", "exp_avg_sq")},
                }
                for number, key in enumerate(keys)
            }
            saved: dict[str, Any] = {
                "state": {} if num_parts else held,
                "param_groups": [
                    {"params": numbers[:num_matrices], "weight_decay": 0.1, "lr": 1e-3},
                    {"params": numbers[num_matrices:], "weight_decay": 0.0, "lr": 1e-3},
                ],
            }
            if num_parts:
                saved["base_state"] = held
                saved["shape_info"] = {n: list(state[key].shape) for n, key in enumerate(keys)}
            if "master" in kinds:
                masters = {n: cut(kinds["master"][rank][key]) for n, key in enumerate(keys)}
                saved["sharded_master_weights"] = masters
            name = f"dp_rank_{part:02d}_tp_rank_{rank:02d}_pp_rank_00.pt"
            torch.save(saved, folder / "step_7" / "optim" / name)

"""Names and layouts of Hugging Face's Qwen3 and Llama against ours. No I/O, no sharding.

Ours fuse q|k|v and gate|up along the rows; everything else is one tensor to one tensor. `rows`
says for each of our parameters which Hugging Face tensors stand below each other in it.
"""

from ndtrain.models.qwen3.shape import Shape

_BLOCK = {
    "attention_norm.weight": ("input_layernorm.weight",),
    "attention.qkv.weight": (
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
    ),
    "attention.core.q_norm.weight": ("self_attn.q_norm.weight",),
    "attention.core.k_norm.weight": ("self_attn.k_norm.weight",),
    "attention.o.weight": ("self_attn.o_proj.weight",),
    "mlp_norm.weight": ("post_attention_layernorm.weight",),
    "mlp.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.down.weight": ("mlp.down_proj.weight",),
}
_OUTSIDE = {
    "embedding.weight": ("model.embed_tokens.weight",),
    "norm.weight": ("model.norm.weight",),
    "head.weight": ("lm_head.weight",),
}


def hugging_face_names(name: str) -> tuple[str, ...]:
    """Our parameter's name -> the Hugging Face tensors that it holds, in order of rows."""
    if not name.startswith("layers."):
        return _OUTSIDE[name]
    _, layer, rest = name.split(".", 2)
    return tuple(f"model.layers.{layer}.{theirs}" for theirs in _BLOCK[rest])


def row_counts(name: str, shape: Shape) -> tuple[int, ...]:
    """Rows of each tensor of `hugging_face_names(name)` (a vector's length for norms)."""
    rest = name.split(".", 2)[2] if name.startswith("layers.") else name
    by_name = {
        "attention.qkv.weight": (shape.query_dim, shape.kv_dim, shape.kv_dim),
        "mlp.gate_up.weight": (shape.intermediate_size, shape.intermediate_size),
        "attention.core.q_norm.weight": (shape.head_dim,),
        "attention.core.k_norm.weight": (shape.head_dim,),
        "embedding.weight": (shape.vocab_size,),
        "head.weight": (shape.vocab_size,),
    }
    return by_name.get(rest, (shape.hidden_size,))


def parameter_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every parameter of the plain model with its shape, in the model's order, without torch."""
    hidden = shape.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (shape.vocab_size, hidden)}
    for layer in range(shape.num_layers):
        block: dict[str, tuple[int, ...]] = {
            "attention_norm.weight": (hidden,),
            "attention.qkv.weight": (shape.query_dim + 2 * shape.kv_dim, hidden),
        }
        if shape.qk_norm:
            block["attention.core.q_norm.weight"] = (shape.head_dim,)
            block["attention.core.k_norm.weight"] = (shape.head_dim,)
        block |= {
            "attention.o.weight": (hidden, shape.query_dim),
            "mlp_norm.weight": (hidden,),
            "mlp.gate_up.weight": (2 * shape.intermediate_size, hidden),
            "mlp.down.weight": (hidden, shape.intermediate_size),
        }
        shapes |= {f"layers.{layer}.{name}": size for name, size in block.items()}
    shapes["norm.weight"] = (hidden,)
    if not shape.tie_embeddings:
        shapes["head.weight"] = (shape.vocab_size, hidden)
    return shapes

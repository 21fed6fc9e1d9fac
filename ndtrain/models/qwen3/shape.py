"""The shape of a Qwen3 or Llama decoder: numbers only, no torch.

    shape = SIZES["qwen3_0.6b"]
    shape.num_parameters()           # 596049920
    Shape.from_hugging_face(json)    # a config.json, refused if the model is not expressible

Sources of the published sizes: the released config.json files of Qwen/Qwen3-*.
"""

import math
from dataclasses import dataclass
from typing import Any

from ndtrain.core.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    rms_norm_eps: float
    tie_embeddings: bool
    qk_norm: bool  # True for Qwen3, False for Llama
    max_positions: int
    initial_std: float = 0.02

    @property
    def query_dim(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.num_kv_heads * self.head_dim

    def num_block_matmul_parameters(self) -> int:
        attention = self.hidden_size * (2 * self.query_dim + 2 * self.kv_dim)
        return attention + 3 * self.hidden_size * self.intermediate_size

    def num_matmul_parameters(self) -> int:
        """Weights that multiply every token: the blocks and the output head, not the lookup."""
        head = self.vocab_size * self.hidden_size
        return self.num_layers * self.num_block_matmul_parameters() + head

    def num_parameters(self) -> int:
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        blocks = self.num_layers * (self.num_block_matmul_parameters() + norms)
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + blocks + self.hidden_size

    def to_hugging_face(self, dtype: str) -> dict[str, Any]:
        """The config.json of this shape for transformers >= 4.51; dtype is torch's name of it."""
        llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "mlp_bias": False}
        qwen3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
        return {
            **(qwen3 if self.qk_norm else llama),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "rms_norm_eps": self.rms_norm_eps,
            # transformers 4 reads the first, transformers 5 the second.
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.tie_embeddings,
            "max_position_embeddings": self.max_positions,
            "initializer_range": self.initial_std,
            "use_cache": True,
            "torch_dtype": dtype,
            "dtype": dtype,
        }

    @classmethod
    def from_hugging_face(cls, config: dict[str, Any], where: str = "config.json") -> "Shape":
        """Reads a config.json. Raises UserError for a model that this shape cannot express."""
        _refuse_what_is_not_expressible(config, where)
        rope = config.get("rope_parameters") or {}
        values = {**config, "rope_theta": rope.get("rope_theta", config.get("rope_theta"))}
        qk_norm = config["model_type"] == "qwen3"
        if not qk_norm:
            # What Llama's config.json of before transformers 4.45 leaves out, by its definition.
            heads = _number(values, "num_attention_heads", int, where)
            hidden = _number(values, "hidden_size", int, where)
            defaults = {"num_key_value_heads": heads, "head_dim": hidden // heads}
            defaults |= {"rope_theta": 10000.0}
            values |= {key: values.get(key) or value for key, value in defaults.items()}
        shape = cls(
            **{ours: _number(values, theirs, int, where) for ours, theirs in _COUNTS.items()},
            rope_theta=float(_number(values, "rope_theta", float, where)),
            rms_norm_eps=float(_number(values, "rms_norm_eps", float, where)),
            # False is the default of both families in transformers, which omits defaults.
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            qk_norm=qk_norm,
            initial_std=float(config.get("initializer_range", 0.02)),
        )
        if shape.num_heads % shape.num_kv_heads or shape.head_dim % 2:
            raise UserError(
                f"{shape.num_heads} query heads on {shape.num_kv_heads} key/value heads of width "
                f"{shape.head_dim}",
                where,
                "num_key_value_heads has to divide num_attention_heads; head_dim has to be even",
            )
        return shape


_COUNTS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_positions": "max_position_embeddings",
}


def _number(config: dict[str, Any], key: str, kind: type[int] | type[float], where: str) -> Any:
    """A positive number; nothing is guessed for one that is missing."""
    value = config.get(key)
    if value is None:
        raise UserError(
            f"the model's configuration has no `{key}`",
            where,
            "take the config.json that belongs to the weights",
        )
    accepted = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, accepted) or not 0 < value < math.inf:
        raise UserError(
            f"`{key}` is {value!r}, not a positive number",
            where,
            "take the config.json that belongs to the weights",
        )
    return value


def _refuse_what_is_not_expressible(config: dict[str, Any], where: str) -> None:
    kind = config.get("model_type")
    if kind not in ("qwen3", "llama"):
        raise UserError(
            f"model_type `{kind}` is not supported", where, "supported: qwen3 (dense), llama"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    layer_types = set(config.get("layer_types") or ()) - {"full_attention"}
    refused = {
        f"RoPE scaling `{rope_type}`": rope_type != "default",
        "rotating a part of each head": rope.get("partial_rotary_factor", 1) != 1,
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "sliding-window attention": bool(config.get("use_sliding_window")),
        f"layers of {sorted(layer_types)}": bool(layer_types),
        f"hidden_act `{config.get('hidden_act')}`": config.get("hidden_act", "silu") != "silu",
        "quantized weights": bool(config.get("quantization_config")),
    }
    for what, found in refused.items():
        if found:
            raise UserError(f"{what} is not supported", where, "use a model without it")


def _published(
    num_layers: int, hidden: int, num_heads: int, intermediate: int, tied: bool
) -> Shape:
    return Shape(
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=8,
        head_dim=128,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_embeddings=tied,
        qk_norm=True,
        max_positions=40960,
    )


SIZES: dict[str, Shape] = {
    "qwen3_0.6b": _published(28, 1024, 16, 3072, tied=True),
    "qwen3_1.7b": _published(28, 2048, 16, 6144, tied=True),
    "qwen3_4b": _published(36, 2560, 32, 9728, tied=True),
    "qwen3_8b": _published(36, 4096, 32, 12288, tied=False),
    "qwen3_14b": _published(40, 5120, 40, 17408, tied=False),
    "qwen3_32b": _published(64, 5120, 64, 25600, tied=False),
}

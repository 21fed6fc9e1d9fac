"""config.json to Shape and back; what a Shape cannot express is refused by name."""

from typing import Any

import pytest
import transformers

from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.shape import SIZES, Shape

from .peer import small_shape


@pytest.mark.parametrize("shape", [*SIZES.values(), small_shape(qk_norm=False, rope_theta=5e5)])
def test_round_trip(shape: Shape) -> None:
    assert Shape.from_hugging_face(shape.to_hugging_face("bfloat16")) == shape


@pytest.mark.parametrize("qk_norm", [True, False])
def test_reads_what_transformers_writes(qk_norm: bool) -> None:
    shape = small_shape(qk_norm=qk_norm, rope_theta=12345.0, tie_embeddings=True, initial_std=0.01)
    config_class = transformers.Qwen3Config if qk_norm else transformers.LlamaConfig
    entries = shape.to_hugging_face("float32")
    del entries["torch_dtype"]
    assert Shape.from_hugging_face(config_class(**entries).to_dict()) == shape


def test_llama_of_before_grouped_heads() -> None:
    config = small_shape(qk_norm=False, hidden_size=64).to_hugging_face("float32")
    for key in ("num_key_value_heads", "head_dim", "rope_theta", "rope_parameters"):
        del config[key]
    shape = Shape.from_hugging_face(config)
    assert (shape.num_kv_heads, shape.head_dim, shape.rope_theta) == (4, 16, 10000.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen3_moe"}, "model_type `qwen3_moe`"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "RoPE scaling `yarn`"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "RoPE scaling `linear`"),
        ({"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}, "a part of"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"hidden_act": "gelu"}, "hidden_act `gelu`"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"head_dim": None}, "no `head_dim`"),
        ({"num_hidden_layers": "2"}, "`num_hidden_layers` is '2'"),
        ({"vocab_size": True}, "`vocab_size` is True"),
        ({"rms_norm_eps": float("nan")}, "`rms_norm_eps` is nan"),
        ({"num_key_value_heads": 3}, "4 query heads on 3"),
        ({"head_dim": 15}, "of width 15"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    config = small_shape().to_hugging_face("float32") | changes
    with pytest.raises(UserError) as refusal:
        Shape.from_hugging_face(config, "model/config.json")
    assert message in refusal.value.what
    assert refusal.value.where == "model/config.json"
    assert refusal.value.help

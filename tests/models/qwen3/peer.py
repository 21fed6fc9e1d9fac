"""transformers' Qwen3 and Llama beside ours, with the same random weights.

peer = peer_of(shape, seed=0)                   # fp64, norms' weights random too
model = ours_from(peer, shape)
logits, loss, gradients = run_peer(peer, shape, tokens, targets)
"""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import transformers
from torch import Tensor, nn
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3

from ndtrain.models.qwen3.hugging_face import hugging_face_names
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.models.qwen3.shape import Shape

Results = dict[str, Tensor]  # "logits" [B, S, V], "loss" [], and each gradient by our name


def small_shape(**changes: Any) -> Shape:
    sizes: dict[str, Any] = {
        "vocab_size": 101,
        "hidden_size": 40,
        "intermediate_size": 72,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "tie_embeddings": False,
        "qk_norm": True,
        "max_positions": 256,
    }
    return Shape(**(sizes | changes))


class _Float64Torch(types.ModuleType):
    """`torch` as a modeling file sees it, with float64 wherever it names float32."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def exact_casts() -> Iterator[None]:
    """Inside, transformers' models are built and run without any cast to fp32.

    Their RMSNorm, softmax and rotary tables name `torch.float32` or `torch.float`; the positions
    and the loss call `.float()`.
    """
    proxy = _Float64Torch("torch")
    with (
        mock.patch.object(modeling_qwen3, "torch", proxy),
        mock.patch.object(modeling_llama, "torch", proxy),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        yield


def peer_of(shape: Shape, seed: int, attention: str = "eager") -> nn.Module:
    """The fp64 model of transformers with random weights, norms included."""
    entries = shape.to_hugging_face("float64")
    config_class, model_class = {
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    }[entries["model_type"]]
    entries.pop("torch_dtype")
    config = config_class(**entries, attn_implementation=attention)
    model = model_class(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.dim() == 1:
            parameter.data = 1 + 0.3 * noise
        else:
            parameter.data = noise / parameter.shape[1] ** 0.5
    model.tie_weights()
    return model


def ours_from(peer: nn.Module, shape: Shape, implementation: str = "sdpa") -> Qwen3:
    """Our model with the peer's weights, in the peer's dtype."""
    theirs = peer.state_dict()
    model = Qwen3(shape, implementation).to(next(peer.parameters()).dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.cat([theirs[other] for other in hugging_face_names(name)]))
    return model


def next_tokens(tokens_BS: Tensor) -> Tensor:
    """Targets: the token that follows, -100 at the end of a row."""
    return nn.functional.pad(tokens_BS[:, 1:], (0, 1), value=-100)


def run_peer(peer: nn.Module, names: list[str], tokens_BS: Tensor, targets_BS: Tensor) -> Results:
    """Logits, the mean loss of the counted tokens, and gradients under our names, fused."""
    peer.zero_grad()
    out = peer(tokens_BS, labels=targets_BS, shift_labels=targets_BS, use_cache=False)
    out.loss.backward()
    theirs = dict(peer.named_parameters())
    results = {"logits": out.logits.detach(), "loss": out.loss.detach()}
    for name in names:
        pieces = [theirs[other].grad for other in hugging_face_names(name)]
        results[name] = torch.cat([piece for piece in pieces if piece is not None])
    return results


def run_ours(model: Qwen3, tokens_BS: Tensor, targets_BS: Tensor, **documents: Tensor) -> Results:
    model.zero_grad()
    counted = (targets_BS != -100).sum()
    weights_BS = torch.ones(targets_BS.shape, dtype=torch.float64) / counted
    loss = model.loss(tokens_BS, targets_BS, weights_BS, **documents)
    loss.backward()
    with torch.no_grad():
        logits = model.logits(model.hidden(tokens_BS, **documents)).transpose(0, 1)
    results = {"logits": logits, "loss": loss.detach()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        results[name] = parameter.grad.clone()
    return results


def relative_error(ours: Tensor, exact: Tensor) -> float:
    """L2 norm of the difference over that of the exact tensor."""
    return ((ours.double() - exact).norm() / exact.norm()).item()


def random_tokens(shape: Shape, seed: int, rows: int = 2, length: int = 37) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(shape.vocab_size, (rows, length), generator=generator)

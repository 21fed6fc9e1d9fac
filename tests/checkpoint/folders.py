"""Folders of weights to test with: transformers' own, and ours in any layout."""

import dataclasses
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from ndtrain.checkpoint.format import Manifest
from ndtrain.checkpoint.writer import begin, publish, write_rank
from ndtrain.models.qwen3.hugging_face import parameter_shapes
from ndtrain.models.qwen3.shape import Shape

SHAPE = Shape(
    vocab_size=96,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_embeddings=False,
    qk_norm=True,
    max_positions=64,
)
TIED = dataclasses.replace(SHAPE, tie_embeddings=True)
LLAMA = dataclasses.replace(SHAPE, qk_norm=False)


def transformers_model(shape: Shape, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    entries = shape.to_hugging_face(str(dtype).removeprefix("torch."))
    del entries["torch_dtype"]
    config, model = {
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    }[entries["model_type"]]
    torch.manual_seed(seed)
    peer = model(config(**entries)).to(dtype).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return peer


def random_parameters(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = parameter_shapes(shape)
    return {name: torch.randn(size, generator=generator) for name, size in shapes.items()}


def cuts(name: str, full: Tensor, shape: Shape, num_ranks: int, rank: int) -> tuple[int, list]:
    """(dim, slices) of a tensor-parallel rank; only rank 0 passes what all hold."""

    def even(size: int, offset: int = 0) -> tuple[int, int]:
        return offset + rank * size // num_ranks, offset + (rank + 1) * size // num_ranks

    if full.dim() == 1:
        return 0, [(0, len(full))] if rank == 0 else []
    if name.endswith("qkv.weight"):
        query, kv = shape.query_dim, shape.kv_dim
        return 0, [even(query), even(kv, query), even(kv, query + kv)]
    if name.endswith("gate_up.weight"):
        return 0, [even(shape.intermediate_size), even(*2 * [shape.intermediate_size])]
    dim = 1 if name.endswith(("o.weight", "down.weight")) else 0
    return dim, [even(full.shape[dim])]


def take(full: Tensor, dim: int, slices: Sequence[tuple[int, int]]) -> Tensor:
    return torch.cat([full.narrow(dim, start, stop - start) for start, stop in slices], dim)


def write_checkpoint(
    folder: Path, shape: Shape, parameters: dict[str, Tensor], num_ranks: int, **options: int
) -> Manifest:
    partial = begin(folder)
    files = []
    for rank in range(num_ranks):
        pieces = []
        for name, full in parameters.items():
            dim, slices = cuts(name, full, shape, num_ranks, rank)
            if slices:
                pieces.append((name, dim, slices, take(full, dim, slices)))
        files += write_rank(partial, rank, pieces, **options)
    manifest = Manifest(shape, "float32", tuple(files), step=7)
    publish(partial, folder, manifest)
    return manifest


class LiveBytes:
    """Counts the bytes of tensors that passed and still live, and their peak."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def watch(self, tensor: Tensor) -> Tensor:
        size = tensor.untyped_storage().nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(tensor.untyped_storage(), self._forget, size)
        return tensor

    def _forget(self, size: int) -> None:
        self.now -= size

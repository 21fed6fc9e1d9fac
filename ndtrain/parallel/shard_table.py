"""How each module of the model is parallelised: a table of (module, style) rows.

A style takes the plain module and returns what replaces it, together with the shard of each of its
parameters. A row's pattern matches whole module names; `*` stands for one part between dots.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ndtrain.models.qwen3.shape import Shape
from ndtrain.overlap.modes import Modes
from ndtrain.parallel.linear import ColumnParallelLinear, RowParallelLinear
from ndtrain.parallel.shard import Shard, even_slice, heads_slice
from ndtrain.parallel.vocabulary import VocabularyParallelEmbedding, VocabularyParallelHead
from ndtrain.runtime.runtime import Runtime


@dataclass(frozen=True)
class Styled:
    module: nn.Module
    shards: dict[str, Shard]  # parameter's own name -> shard


@dataclass(frozen=True)
class Context:
    """What the parallel modules are built with."""

    runtime: Runtime
    modes: Modes


Style = Callable[[Any, Shape, Context, str], Styled]


def replicated_norm(module: Any, shape: Shape, context: Context, name: str) -> Styled:
    """Whole on every rank, but each sees other tokens or heads: gradients are summed."""
    shard = Shard.replicated(module.weight.shape[0], context.runtime.mesh.tensor.size)
    return Styled(module, {"weight": shard})


def column_heads(module: Any, shape: Shape, context: Context, name: str) -> Styled:
    """Fused q|k|v: own query heads, then own key heads, then own value heads."""
    tensor, head_dim = context.runtime.mesh.tensor, shape.head_dim
    counts = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
    offsets = (0, shape.query_dim, shape.query_dim + shape.kv_dim)
    slices = tuple(
        heads_slice(count, head_dim, tensor.size, tensor.rank, offset)
        for count, offset in zip(counts, offsets, strict=True)
    )
    return Styled(
        ColumnParallelLinear(module.weight, context.runtime, name, context.modes),
        {"weight": Shard(0, slices)},
    )


def column_pair(module: Any, shape: Shape, context: Context, name: str) -> Styled:
    """Fused gate|up: own rows of gate, then the same rows of up, so that SwiGLU is local."""
    tensor, size = context.runtime.mesh.tensor, shape.intermediate_size
    slices = tuple(even_slice(size, tensor.size, tensor.rank, offset) for offset in (0, size))
    return Styled(
        ColumnParallelLinear(module.weight, context.runtime, name, context.modes),
        {"weight": Shard(0, slices)},
    )


def row(module: Any, shape: Shape, context: Context, name: str) -> Styled:
    tensor = context.runtime.mesh.tensor
    part = even_slice(module.weight.shape[1], tensor.size, tensor.rank)
    return Styled(
        RowParallelLinear(module.weight, context.runtime, name, context.modes),
        {"weight": Shard(1, (part,))},
    )


def local_heads(module: Any, shape: Shape, context: Context, name: str) -> Styled:
    """The attention core with its own share of the heads."""
    size = context.runtime.mesh.tensor.size
    module.num_heads = shape.num_heads // size
    module.num_kv_heads = max(1, shape.num_kv_heads // size)
    return Styled(module, {})


def vocabulary_embedding(module: Any, shape: Shape, context: Context, name: str) -> Styled:
    tensor = context.runtime.mesh.tensor
    part = even_slice(shape.vocab_size, tensor.size, tensor.rank)
    parallel = VocabularyParallelEmbedding(module.weight, context.runtime, name)
    return Styled(parallel, {"weight": Shard(0, (part,))})


def vocabulary_head(module: Any, shape: Shape, context: Context, name: str) -> Styled:
    tensor = context.runtime.mesh.tensor
    part = even_slice(shape.vocab_size, tensor.size, tensor.rank)
    parallel = VocabularyParallelHead(module.weight, context.runtime, name, context.modes)
    return Styled(parallel, {"weight": Shard(0, (part,))})


DECODER: tuple[tuple[str, Style], ...] = (
    ("embedding", vocabulary_embedding),
    ("layers.*.attention_norm", replicated_norm),
    ("layers.*.attention.qkv", column_heads),
    ("layers.*.attention.core", local_heads),
    ("layers.*.attention.core.q_norm", replicated_norm),
    ("layers.*.attention.core.k_norm", replicated_norm),
    ("layers.*.attention.o", row),
    ("layers.*.mlp_norm", replicated_norm),
    ("layers.*.mlp.gate_up", column_pair),
    ("layers.*.mlp.down", row),
    ("norm", replicated_norm),
    ("head", vocabulary_head),
)

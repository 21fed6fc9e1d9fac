"""Qwen3 on one device, plain: no rank, no process group, no sharding.

    model = Qwen3(shape)                                    # or under torch.device("meta")
    loss = model.loss(tokens_BS, targets_BS, weights_BS)    # scalar
    logits_SBV = model.logits(model.hidden(tokens_BS))

S sequence, B batch, H hidden, V vocabulary, N query heads, K key/value heads, D head dim,
I intermediate. Activations are sequence-first [S, B, H]: a shard along the sequence is contiguous.
q, k, v are one matrix, gate and up another: one matmul each. `parallel/` replaces submodules by
name; the code here stays as it is.
"""

import torch
from torch import Tensor, nn

from ndtrain.models.qwen3.shape import Shape
from ndtrain.ops.attention import attention
from ndtrain.ops.loss import linear_cross_entropy
from ndtrain.ops.norm import rms_norm
from ndtrain.ops.rope import rope, rope_tables
from ndtrain.ops.swiglu import swiglu


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Linear(nn.Module):
    """y = x W^T without bias. The weights are uninitialised: see `initial_std` and `load`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


class AttentionCore(nn.Module):
    """From a fused q|k|v to the heads' outputs: everything between the two projections.

    The numbers of heads are those held here: `parallel/` divides them.
    """

    def __init__(self, shape: Shape, implementation: str) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.num_kv_heads = shape.num_kv_heads
        self.head_dim = shape.head_dim
        self.implementation = implementation
        eps = shape.rms_norm_eps
        self.q_norm = RMSNorm(shape.head_dim, eps) if shape.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(shape.head_dim, eps) if shape.qk_norm else nn.Identity()

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[S, B, (N + 2K) D] -> q [S, B, N, D], k and v [S, B, K, D], views."""
        heads = qkv.unflatten(-1, (-1, self.head_dim))
        return heads.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=2)

    def forward(
        self, qkv: Tensor, rotary: tuple[Tensor, Tensor], starts_BS: Tensor | None
    ) -> Tensor:
        q, k, v = self.split(qkv)
        q = rope(self.q_norm(q), *rotary)
        k = rope(self.k_norm(k), *rotary)
        scale = self.head_dim**-0.5
        return attention(q, k, v, starts_BS, scale, self.implementation)[0].flatten(2)


class Attention(nn.Module):
    def __init__(self, shape: Shape, implementation: str) -> None:
        super().__init__()
        self.qkv = Linear(shape.hidden_size, shape.query_dim + 2 * shape.kv_dim)
        self.core = AttentionCore(shape, implementation)
        self.o = Linear(shape.query_dim, shape.hidden_size)

    def forward(
        self, x_SBH: Tensor, rotary: tuple[Tensor, Tensor], starts_BS: Tensor | None
    ) -> Tensor:
        return self.after_qkv(self.qkv(x_SBH), rotary, starts_BS)

    def after_qkv(
        self, qkv: Tensor, rotary: tuple[Tensor, Tensor], starts_BS: Tensor | None
    ) -> Tensor:
        """What activation checkpointing may run again from q|k|v."""
        return self.o(self.core(qkv, rotary, starts_BS))


class SwiGLU(nn.Module):
    def forward(self, gate_up: Tensor) -> Tensor:
        return swiglu(gate_up)


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up = Linear(shape.hidden_size, 2 * shape.intermediate_size)
        self.activation = SwiGLU()
        self.down = Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x_SBH: Tensor) -> Tensor:
        return self.after_gate_up(self.gate_up(x_SBH))

    def after_gate_up(self, gate_up: Tensor) -> Tensor:
        """What activation checkpointing may run again from gate|up."""
        return self.down(self.activation(gate_up))


class Block(nn.Module):
    def __init__(self, shape: Shape, implementation: str) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.attention = Attention(shape, implementation)
        self.mlp_norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = MLP(shape)

    def forward(
        self, x_SBH: Tensor, rotary: tuple[Tensor, Tensor], starts_BS: Tensor | None
    ) -> Tensor:
        x_SBH = x_SBH + self.attention(self.attention_norm(x_SBH), rotary, starts_BS)
        return x_SBH + self.mlp(self.mlp_norm(x_SBH))


class Embedding(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape.vocab_size, shape.hidden_size))

    def forward(self, tokens_BS: Tensor) -> Tensor:
        return nn.functional.embedding(tokens_BS.t(), self.weight)


class Head(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape.vocab_size, shape.hidden_size))

    def forward(self, x_SBH: Tensor) -> Tensor:
        return nn.functional.linear(x_SBH, self.weight)

    def loss(self, x_SBH: Tensor, targets_BS: Tensor, weights_BS: Tensor) -> Tensor:
        targets, weights = targets_BS.t().flatten(), weights_BS.t().flatten()
        return linear_cross_entropy(x_SBH.flatten(0, 1), self.weight, targets, weights)


class Qwen3(nn.Module):
    def __init__(self, shape: Shape, attention_implementation: str = "sdpa") -> None:
        super().__init__()
        self.shape = shape
        self.embedding = Embedding(shape)
        self.layers = nn.ModuleList(
            Block(shape, attention_implementation) for _ in range(shape.num_layers)
        )
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.head = Head(shape)
        if shape.tie_embeddings:
            self.head.weight = self.embedding.weight

    def hidden(
        self,
        tokens_BS: Tensor,
        positions_BS: Tensor | None = None,
        starts_BS: Tensor | None = None,
    ) -> Tensor:
        """The residual stream after the last norm, [S, B, H].

        positions_BS: position of each token for RoPE; None: 0..S-1 in each row.
        starts_BS: row index of the first token of each token's document; None: one document a row.
        """
        rotary = self.rotary(tokens_BS, positions_BS)
        x_SBH = self.embedding(tokens_BS)
        for layer in self.layers:
            x_SBH = layer(x_SBH, rotary, starts_BS)
        return self.norm(x_SBH)

    def rotary(self, tokens_BS: Tensor, positions_BS: Tensor | None) -> tuple[Tensor, Tensor]:
        if positions_BS is None:
            row = torch.arange(tokens_BS.shape[1], device=tokens_BS.device)
            positions_BS = row.expand(tokens_BS.shape)
        dtype = self.norm.weight.dtype
        cos, sin = rope_tables(positions_BS, self.shape.head_dim, self.shape.rope_theta, dtype)
        # Positions may be the host's: not every device has the fp64 of the tables' angles.
        return cos.to(tokens_BS.device), sin.to(tokens_BS.device)

    def logits(self, x_SBH: Tensor) -> Tensor:
        """[S, B, H] -> [S, B, V]. For generation and tests: training uses `loss`."""
        return self.head(x_SBH)

    def loss(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor,
        weights_BS: Tensor,
        positions_BS: Tensor | None = None,
        starts_BS: Tensor | None = None,
    ) -> Tensor:
        """Sum over tokens of weights * cross-entropy; targets of -100 count nothing."""
        x_SBH = self.hidden(tokens_BS, positions_BS, starts_BS)
        return self.head.loss(x_SBH, targets_BS, weights_BS)

"""Where our parameters lie in the files of neuronx-distributed's tensor ranks. No I/O, no torch.

    layout = Layout(shape, num_ranks=8, attention="fused", mlp="fused", num_kv_copies=1)
    for part in layout.parts("layers.0.attention.qkv.weight", rank=3):
        part.key, part.dim, part.slices      # tensor `key` of rank 3: slices of ours along dim

Names and cuts: neuronx-distributed 2.29, parallel_layers/layers.py, modules/qkv_linear.py,
examples/training/llama and scripts/checkpoint_converter.py (the order of heads beside copies).
"""

from dataclasses import dataclass
from typing import Literal, get_args

from ndtrain.models.qwen3.hugging_face import hugging_face_names, parameter_shapes, row_counts
from ndtrain.models.qwen3.shape import Shape

Attention = Literal["fused", "split", "coalesced", "separate"]
Mlp = Literal["fused", "separate"]
Slices = tuple[tuple[int, int], ...]

# GQAQKVColumnParallelLinear with fuse_qkv, and without; one ColumnParallelLinear; three of them.
_QKV_KEYS: dict[Attention, tuple[str, ...]] = {
    "fused": ("qkv_proj.weight_qkv",),
    "split": ("qkv_proj.weight_q", "qkv_proj.weight_k", "qkv_proj.weight_v"),
    "coalesced": ("qkv_proj.weight",),
    "separate": ("q_proj.weight", "k_proj.weight", "v_proj.weight"),
}
_MLP_KEYS: dict[Mlp, tuple[str, ...]] = {
    "fused": ("gate_up_proj.weight",),
    "separate": ("gate_proj.weight", "up_proj.weight"),
}
# The order in which a block of theirs registers what ours has in another one.
_MODULES = (
    "attention.qkv.weight",
    "attention.o.weight",
    "attention.core.q_norm.weight",
    "attention.core.k_norm.weight",
    "mlp.gate_up.weight",
    "mlp.down.weight",
    "attention_norm.weight",
    "mlp_norm.weight",
)
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
MLPS: tuple[Mlp, ...] = get_args(Mlp)


@dataclass(frozen=True, slots=True)
class Part:
    """Tensor `key` of a rank: `slices` of our parameter along `dim`, one after the other."""

    key: str
    dim: int
    slices: Slices

    def size(self) -> int:
        return sum(stop - start for start, stop in self.slices)


@dataclass(frozen=True, slots=True)
class Layout:
    """How `num_ranks` tensor ranks hold a model of `shape`.

    num_kv_copies: how often each key/value head is held (neuronx-distributed's
    kv_size_multiplier). With copies, the heads lie in Trainium1's order: slot s of the
    num_kv_heads * num_kv_copies slots holds key/value head s modulo num_kv_heads, and with it the
    part of that head's query heads with the number s // num_kv_heads.
    """

    shape: Shape
    num_ranks: int
    attention: Attention
    mlp: Mlp
    num_kv_copies: int = 1

    def problem(self) -> str | None:
        """Why the ranks cannot hold the model in equal parts; None if they can."""
        shape, ranks = self.shape, self.num_ranks
        num_slots = shape.num_kv_heads * self.num_kv_copies
        for what, size in (
            ("vocab_size", shape.vocab_size),
            ("intermediate_size", shape.intermediate_size),
            ("num_key_value_heads * copies", num_slots),
        ):
            if size % ranks:
                return f"{ranks} tensor ranks do not divide {what} = {size}"
        if shape.num_heads % num_slots:
            return f"{num_slots} key/value heads with their copies do not divide the query heads"
        return None

    def parts(self, name: str, rank: int) -> tuple[Part, ...]:
        """The tensors of `rank` that hold parts of our parameter `name`, all of it together."""
        if name.endswith("attention.qkv.weight"):
            return self._together(qkv_keys(name, self.attention), self._qkv(rank))
        if name.endswith("mlp.gate_up.weight"):
            width = self.shape.intermediate_size
            cuts = [self._even(width, rank, offset) for offset in (0, width)]
            return self._together(mlp_keys(name, self.mlp), [(cut,) for cut in cuts])
        (key,) = hugging_face_names(name)
        if name.endswith("norm.weight"):  # every rank holds it
            return (Part(key, 0, ((0, sum(row_counts(name, self.shape))),)),)
        if name.endswith("attention.o.weight"):
            return (Part(key, 1, self._query_heads(rank)),)
        if name.endswith("mlp.down.weight"):
            return (Part(key, 1, (self._even(self.shape.intermediate_size, rank),)),)
        return (Part(key, 0, (self._even(self.shape.vocab_size, rank),)),)

    def _even(self, size: int, rank: int, offset: int = 0) -> tuple[int, int]:
        part = size // self.num_ranks
        return offset + rank * part, offset + (rank + 1) * part

    def _together(self, keys: tuple[str, ...], matrices: list[Slices]) -> tuple[Part, ...]:
        """One tensor for each matrix, or one for all, below each other."""
        if len(keys) == 1:
            return (Part(keys[0], 0, tuple(part for slices in matrices for part in slices)),)
        return tuple(Part(key, 0, slices) for key, slices in zip(keys, matrices, strict=True))

    def _slots(self, rank: int) -> range:
        per_rank = self.shape.num_kv_heads * self.num_kv_copies // self.num_ranks
        return range(rank * per_rank, (rank + 1) * per_rank)

    def _query_heads(self, rank: int) -> Slices:
        """Rows of our query matrix, and columns of our output matrix."""
        shape = self.shape
        group = shape.query_dim // shape.num_kv_heads  # rows that share a key/value head
        part = group // self.num_kv_copies
        starts = [
            slot % shape.num_kv_heads * group + slot // shape.num_kv_heads * part
            for slot in self._slots(rank)
        ]
        return tuple((start, start + part) for start in starts)

    def _qkv(self, rank: int) -> list[Slices]:
        shape = self.shape
        matrices = [self._query_heads(rank)]
        for offset in (shape.query_dim, shape.query_dim + shape.kv_dim):
            heads = [slot % shape.num_kv_heads for slot in self._slots(rank)]
            starts = [offset + head * shape.head_dim for head in heads]
            matrices.append(tuple((start, start + shape.head_dim) for start in starts))
        return matrices


def in_module_order(shape: Shape) -> list[str]:
    """Our parameters in the order of their model's, which its optimizer counts by."""

    def place(name: str) -> tuple[int, int, int]:
        if name.startswith("layers."):
            _, layer, rest = name.split(".", 2)
            return 1, int(layer), _MODULES.index(rest)
        return {"embedding.weight": 0, "norm.weight": 2, "head.weight": 3}[name], 0, 0

    return sorted(parameter_shapes(shape), key=place)


def qkv_keys(name: str, attention: Attention) -> tuple[str, ...]:
    """Keys of the query, key and value matrices of our `layers.N.attention.qkv.weight`."""
    return tuple(f"{_layer(name)}.self_attn.{key}" for key in _QKV_KEYS[attention])


def mlp_keys(name: str, mlp: Mlp) -> tuple[str, ...]:
    """Keys of the gate and up matrices of our `layers.N.mlp.gate_up.weight`."""
    return tuple(f"{_layer(name)}.mlp.{key}" for key in _MLP_KEYS[mlp])


def _layer(name: str) -> str:
    return f"model.layers.{name.split('.')[1]}"

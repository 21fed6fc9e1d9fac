"""Generation with a key/value cache, one sequence on one device.

    for token in generate(model, prompt_tokens, max_new_tokens=64, temperature=0.8, top_p=0.95):
        ...

The prompt passes once, then one token at a time. The model's own submodules compute; only what is
between q|k|v and the heads' outputs is written again here, because its keys come from the cache.

S new tokens, T tokens in the cache with them, N query heads, K key/value heads, D head dim,
G = N / K, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.model import AttentionCore, Block, Qwen3
from ndtrain.models.qwen3.shape import Shape
from ndtrain.ops.attention import attention
from ndtrain.ops.norm import wide
from ndtrain.ops.rope import rope


class Cache:
    """Keys (after RoPE) and values of the tokens seen, for each layer: room for `capacity`."""

    def __init__(
        self, shape: Shape, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        size = (shape.num_layers, 2, capacity, shape.num_kv_heads, shape.head_dim)
        self._keys_values = torch.empty(size, dtype=dtype, device=device)
        self.length = 0  # tokens that every layer has

    def append(self, layer: int, k_SKD: Tensor, v_SKD: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new tokens' keys and values; returns those of all tokens, [T, K, D]."""
        total = self.length + k_SKD.shape[0]
        keys, values = self._keys_values[layer]
        keys[self.length : total] = k_SKD
        values[self.length : total] = v_SKD
        return keys[:total], values[:total]


@torch.no_grad()
def next_logits(model: Qwen3, tokens: Sequence[int], cache: Cache) -> Tensor:
    """Logits [V], in fp32 or fp64, of what follows the cached tokens and then `tokens`."""
    device = model.embedding.weight.device
    tokens_BS = torch.tensor([list(tokens)], device=device)
    positions_BS = torch.arange(cache.length, cache.length + len(tokens), device=device)[None]
    rotary = model.rotary(tokens_BS, positions_BS)
    x_SBH = model.embedding(tokens_BS)
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, Block)
        qkv = layer.attention.qkv(layer.attention_norm(x_SBH))
        heads = _attend(layer.attention.core, qkv, rotary, cache, index)
        x_SBH = x_SBH + layer.attention.o(heads)
        x_SBH = x_SBH + layer.mlp(layer.mlp_norm(x_SBH))
    cache.length += len(tokens)
    logits = model.logits(model.norm(x_SBH[-1:]))[0, 0]
    return logits.to(wide(logits.dtype))


def _attend(
    core: AttentionCore, qkv: Tensor, rotary: tuple[Tensor, Tensor], cache: Cache, layer: int
) -> Tensor:
    """[S, 1, (N + 2K) D] -> [S, 1, N D]: each new token attends to the cache and up to itself."""
    q, k, v = core.split(qkv)
    q, k = rope(core.q_norm(q), *rotary), rope(core.k_norm(k), *rotary)
    k_TKD, v_TKD = cache.append(layer, k[:, 0], v[:, 0])
    scale = core.head_dim**-0.5
    if cache.length == 0:  # a prompt, maybe long: without S x S scores
        return attention(q, k, v, None, scale, core.implementation)[0].flatten(2)
    q_SND = q[:, 0]
    dtype = wide(q_SND.dtype)
    q_SKGD = q_SND.unflatten(1, (core.num_kv_heads, -1)).to(dtype)
    scores_KGST = torch.einsum("skgd,tkd->kgst", q_SKGD, k_TKD.to(dtype)) * scale
    num_new, num_all = scores_KGST.shape[-2:]
    later = torch.ones(num_new, num_all, dtype=torch.bool, device=q.device)
    scores_KGST.masked_fill_(later.triu(num_all - num_new + 1), float("-inf"))
    out_SKGD = torch.einsum("kgst,tkd->skgd", scores_KGST.softmax(-1), v_TKD.to(dtype))
    return out_SKGD.flatten(1)[:, None].to(qkv.dtype)


def generate(
    model: Qwen3,
    tokens: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """Yields up to max_new_tokens tokens, fewer if one of `stop` comes (it is yielded too).

    temperature 0 takes the likeliest token; otherwise a token is drawn, with `seed`, from the
    likeliest ones that together have a probability of at least top_p (Holtzman et al. 2020,
    arXiv:1904.09751). Ends at the model's max_positions. Raises UserError, at the call, for a
    prompt that is empty, too long or outside the vocabulary.
    """
    capacity = min(len(tokens) + max_new_tokens, model.shape.max_positions)
    _check_prompt(model.shape, tokens)
    weight = model.embedding.weight
    cache = Cache(model.shape, capacity, weight.dtype, weight.device)
    generator = torch.Generator().manual_seed(seed)

    def continuation() -> Iterator[int]:
        new = list(tokens)
        for _ in range(capacity - len(tokens)):
            token = choose_token(next_logits(model, new, cache), temperature, top_p, generator)
            yield token
            if token in stop:
                return
            new = [token]

    return continuation()


def choose_token(
    logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator
) -> int:
    """One token of a distribution; temperature > 0 draws from `generator`, on the CPU."""
    if temperature == 0:
        return int(logits_V.argmax())
    probabilities = torch.softmax(logits_V.cpu() / temperature, dim=-1)
    ordered, order = probabilities.sort(descending=True, stable=True)
    # A token stays if those before it do not reach top_p yet: the first always does.
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    return int(order[torch.multinomial(ordered, 1, generator=generator)])


def _check_prompt(shape: Shape, tokens: Sequence[int]) -> None:
    if not tokens:
        raise UserError("the prompt is empty", "the prompt", "give at least one token")
    if len(tokens) > shape.max_positions:
        raise UserError(
            f"the prompt has {len(tokens)} tokens, the model takes {shape.max_positions}",
            "the prompt",
            "shorten it",
        )
    outside = [token for token in tokens if not 0 <= token < shape.vocab_size]
    if outside:
        raise UserError(
            f"token {outside[0]} is not in the model's vocabulary of {shape.vocab_size}",
            "the prompt",
            "use the tokenizer that the model was trained with",
        )

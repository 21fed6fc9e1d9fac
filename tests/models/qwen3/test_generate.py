"""Generation against transformers' generate; the cache against the uncached model."""

import dataclasses

import pytest
import torch
from torch import nn

from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.generate import Cache, choose_token, generate, next_logits
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.models.qwen3.shape import Shape

from .peer import ours_from, peer_of, random_tokens, small_shape

SHAPES = {
    "qwen3": small_shape(),
    "tied": small_shape(tie_embeddings=True, num_kv_heads=1),
    "llama": small_shape(qk_norm=False),
}
all_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def _prompt(shape: Shape, seed: int, length: int = 11) -> list[int]:
    return random_tokens(shape, seed, rows=1, length=length)[0].tolist()


def _pair(shape: Shape, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Qwen3]:
    peer = peer_of(shape, seed=5).to(dtype)
    return peer, ours_from(peer, shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@all_shapes
def test_greedy_equals_transformers(shape: Shape, dtype: torch.dtype) -> None:
    peer, model = _pair(shape, dtype)
    seen: set[int] = set()
    for seed in range(4):
        prompt = _prompt(shape, seed)
        theirs = peer.generate(  # type: ignore[operator]
            torch.tensor([prompt]), max_new_tokens=25, do_sample=False, eos_token_id=None
        )[0, len(prompt) :].tolist()
        assert list(generate(model, prompt, max_new_tokens=25)) == theirs
        seen |= set(theirs)
    assert len(seen) > 8  # not one token again and again, which any model could do


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)]
)
@all_shapes
def test_cached_logits_are_those_of_the_model(
    shape: Shape, dtype: torch.dtype, bound: float
) -> None:
    _, model = _pair(shape, dtype)
    tokens = _prompt(shape, seed=7, length=24)
    cache = Cache(shape, 24, dtype, torch.device("cpu"))
    with torch.no_grad():
        whole = model.logits(model.hidden(torch.tensor([tokens])))[:, 0]
    cut = 0
    for size in (9, 1, 5, 1, 1, 7):  # a prompt, tokens, and prompts after tokens
        logits = next_logits(model, tokens[cut : cut + size], cache)
        cut += size
        assert cache.length == cut
        expected = whole[cut - 1]
        assert (logits - expected).norm() / expected.norm() < bound
    assert cut == len(tokens)


def test_a_seed_gives_the_same_tokens() -> None:
    _, model = _pair(SHAPES["qwen3"])
    prompt = _prompt(SHAPES["qwen3"], seed=8)

    def sample(seed: int) -> list[int]:
        return list(generate(model, prompt, 20, temperature=1.0, top_p=0.9, seed=seed))

    state = torch.get_rng_state()
    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, [2]), (0.5, [2]), (0.51, [0, 2]), (0.8, [0, 2]), (1.0, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_likeliest_that_reach_it(top_p: float, kept: list[int]) -> None:
    probabilities = torch.tensor([0.3125, 0.125, 0.5, 0.0625], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor(
        [choose_token(probabilities.log(), 1.0, top_p, generator) for _ in range(3000)]
    )
    counts = torch.bincount(draws, minlength=4).double() / len(draws)
    expected = torch.zeros(4, dtype=torch.float64)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    assert counts.nonzero().flatten().tolist() == kept
    assert (counts - expected).abs().max() < 0.03  # 4 standard deviations of 3000 draws


def test_temperature_sharpens_and_flattens() -> None:
    logits = torch.tensor([0.0, 1.0])

    def share(temperature: float) -> float:
        generator = torch.Generator().manual_seed(0)
        draws = [choose_token(logits, temperature, 1.0, generator) for _ in range(1000)]
        return sum(draws) / len(draws)

    for temperature in (0.5, 1.0, 4.0):
        expected = torch.sigmoid(torch.tensor(1 / temperature)).item()
        assert abs(share(temperature) - expected) < 0.05


def test_stops_at_a_stop_token_and_at_the_last_position() -> None:
    shape = dataclasses.replace(SHAPES["qwen3"], max_positions=20)
    _, model = _pair(shape)
    prompt = _prompt(shape, seed=9)
    free = list(generate(model, prompt, max_new_tokens=100))
    assert len(free) == shape.max_positions - len(prompt)
    stop = free[4]
    stopped = list(generate(model, prompt, max_new_tokens=100, stop={stop}))
    assert stopped == free[: free.index(stop) + 1]
    assert list(generate(model, prompt, max_new_tokens=0)) == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([0] * 257, "257 tokens, the model takes 256"), ([3, 101], "token 101")],
)
def test_refuses_a_prompt_that_does_not_fit(prompt: list[int], message: str) -> None:
    _, model = _pair(SHAPES["qwen3"])
    with pytest.raises(UserError, match=message):
        generate(model, prompt, max_new_tokens=1)  # at the call, before the first token

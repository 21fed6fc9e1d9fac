"""Rows travel to where they are needed: the values of a plain look-up, and a t-th of the bytes."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ndtrain.parallel.vocabulary import VocabularyParallelEmbedding
from ndtrain.runtime.runtime import Runtime, start_cpu
from tests.rank_pool import ranks

VOCABULARY, HIDDEN, SEQUENCE, BATCH = 24, 6, 16, 2


def tokens_of(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    highest = {"any": VOCABULARY, "of the first rank alone": VOCABULARY // 4}[kind]
    return torch.randint(highest, (BATCH, SEQUENCE), generator=generator)


def table() -> Tensor:
    return torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(6))


def gradient() -> Tensor:
    return torch.randn(SEQUENCE, BATCH, HIDDEN, generator=torch.Generator().manual_seed(7))


class Found(NamedTuple):
    y: Tensor
    dweight: Tensor
    num_bytes: int


def run(runtime: Runtime, kind: str) -> Found:
    axis = runtime.mesh.tensor
    rows, share = VOCABULARY // axis.size, SEQUENCE // axis.size
    weight = nn.Parameter(table()[axis.rank * rows :][:rows].clone())
    embedding = VocabularyParallelEmbedding(weight, runtime, "embedding")
    runtime.spans.drain()
    y = embedding(tokens_of(kind))
    y.backward(gradient()[axis.rank * share :][:share])
    assert weight.grad is not None
    moved = [span for span in runtime.spans.drain() if span.track != "compute"]
    assert all("embedding" in span.name for span in moved)
    return Found(y.detach(), weight.grad, sum(span.num_bytes for span in moved))


def both(rank: int, size: int, kind: str) -> tuple[Found, Found]:
    """With sizes that vary, and by the collectives of equal sizes."""
    runtime = start_cpu(size, 1, num_kv_heads=size)
    assert runtime.sizes_may_vary
    return run(runtime, kind), run(replace(runtime, has_permute=False), kind)


@pytest.mark.parametrize("kind", ["any", "of the first rank alone"])
@pytest.mark.parametrize("size", [2, 4])
def test_values_and_gradients_are_those_of_a_plain_look_up(size: int, kind: str) -> None:
    plain = nn.Embedding(VOCABULARY, HIDDEN, _weight=table())
    y = plain(tokens_of(kind).t())
    y.backward(gradient())
    assert plain.weight.grad is not None
    results = ranks(size).run(both, size, kind)
    for form in range(2):
        found = [result[form] for result in results]
        assert torch.equal(torch.cat([one.y for one in found]), y.detach())
        assert torch.equal(torch.cat([one.dweight for one in found]), plain.weight.grad)


def test_only_what_is_needed_travels() -> None:
    """Forward each token's row once, unless its own rank holds it; backward the same way back."""
    size, row_bytes = 4, 4 * HIDDEN
    owners = tokens_of("any").t() // (VOCABULARY // size)
    readers = torch.arange(SEQUENCE)[:, None].expand_as(owners) // (SEQUENCE // size)
    needed = int((owners != readers).sum())
    results = ranks(size).run(both, size, "any")
    sent = sum(varying.num_bytes for varying, _ in results)
    assert sent == 2 * needed * row_bytes
    assert sent < sum(equal.num_bytes for _, equal in results) / 3

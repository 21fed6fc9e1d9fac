"""Head and cross-entropy: chunks, shards of the vocabulary, weights, ignored targets, rounding."""

import threading
from unittest import mock

import pytest
import torch
from torch import Tensor

from ndtrain.ops import loss as loss_module
from ndtrain.ops.loss import IGNORED, cross_entropy_reference, linear_cross_entropy

NUM_TOKENS, HIDDEN, VOCABULARY = 37, 12, 50


def _inputs(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(NUM_TOKENS, HIDDEN, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64)
    targets = torch.randint(VOCABULARY, (NUM_TOKENS,), generator=generator)
    targets[::5] = IGNORED
    weights = torch.rand(NUM_TOKENS, generator=generator)
    return x.to(dtype), weight.to(dtype), targets, weights


def _reference(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return cross_entropy_reference(x @ weight.t(), targets, weights)


def _with_gradients(function, x: Tensor, weight: Tensor, *rest: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    loss = function(x, weight, *rest)
    return [loss.detach(), *torch.autograd.grad(loss * 3, [x, weight])]  # upstream is not one


@pytest.mark.parametrize("rows", [1, 5, 36, 37, 1000])
def test_chunks_do_not_matter(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", rows * VOCABULARY * 8)
    statistics = mock.Mock(wraps=loss_module.vocabulary_statistics)
    monkeypatch.setattr(loss_module, "vocabulary_statistics", statistics)
    ours = _with_gradients(linear_cross_entropy, *_inputs())
    assert statistics.call_count == -(-NUM_TOKENS // rows)
    for a, b in zip(ours, _with_gradients(_reference, *_inputs()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_gradients_are_the_slopes_of_the_loss() -> None:
    """gradcheck runs a graph backward several times, which this loss refuses."""
    x, weight, targets, weights = _inputs()
    _, dx, dweight = _with_gradients(linear_cross_entropy, x, weight, targets, weights)
    for tensor, gradient in ((x, dx), (weight, dweight)):
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7)).double()
        step = 1e-6 * direction

        def loss(moved: torch.Tensor, tensor: torch.Tensor = tensor) -> torch.Tensor:
            first, second = (moved if other is tensor else other for other in (x, weight))
            return linear_cross_entropy(first.detach(), second.detach(), targets, weights)

        slope = (loss(tensor + step) - loss(tensor - step)) / 2e-6
        torch.testing.assert_close(3 * slope, (gradient * direction).sum(), rtol=1e-6, atol=1e-9)


def test_the_gradients_are_scaled_by_what_comes_after_the_loss_and_only_once() -> None:
    x, weight, targets, weights = _inputs()
    _, dx, _ = _with_gradients(linear_cross_entropy, x, weight, targets, weights)
    leaf = x.detach().requires_grad_()
    loss = 3 * linear_cross_entropy(leaf, weight, targets, weights)
    loss.backward(retain_graph=True)
    torch.testing.assert_close(leaf.grad, dx)
    with pytest.raises(RuntimeError, match="backward ran twice"):
        loss.backward()


def test_a_second_derivative_is_refused() -> None:
    x, weight, targets, weights = _inputs()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = linear_cross_entropy(x.requires_grad_(), weight, targets, weights) * scale
    (dx,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.parametrize("num_shards", [2, 5])
def test_shards_of_the_vocabulary_equal_the_whole(
    num_shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shard runs in its thread; `combine` is an all-gather among them."""
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 16 * VOCABULARY // num_shards * 8)
    x, weight, targets, weights = _inputs(1)
    shards = weight.chunk(num_shards)
    gathered: list[Tensor] = [torch.empty(0)] * num_shards
    barrier = threading.Barrier(num_shards, timeout=60)
    results: list[list[Tensor]] = [[] for _ in shards]

    def run(shard: int) -> None:
        def combine(statistics: Tensor) -> Tensor:
            gathered[shard] = statistics
            barrier.wait()
            stacked = torch.stack(gathered)
            barrier.wait()
            return stacked

        def sharded(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
            first = shard * weight.shape[0]
            return linear_cross_entropy(x, weight, targets, weights, first, combine)

        try:
            results[shard] = _with_gradients(sharded, x, shards[shard], targets, weights)
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=run, args=(shard,)) for shard in range(num_shards)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loss, dx, dweight = _with_gradients(_reference, x, weight, targets, weights)
    for result in results:
        torch.testing.assert_close(result[0], loss, rtol=1e-12, atol=1e-13)
        assert torch.equal(result[0], results[0][0])  # bit for bit on all shards
    torch.testing.assert_close(sum(result[1] for result in results), dx, rtol=1e-12, atol=1e-13)
    whole = torch.cat([result[2] for result in results])
    torch.testing.assert_close(whole, dweight, rtol=1e-12, atol=1e-13)


def test_an_ignored_token_counts_nothing_whatever_its_weight() -> None:
    x, weight, targets, weights = _inputs(2)
    ours = _with_gradients(linear_cross_entropy, x, weight, targets, weights)
    weights[targets == IGNORED] = float("nan")
    again = _with_gradients(linear_cross_entropy, x, weight, targets, weights)
    for a, b in zip(ours, again, strict=True):
        assert torch.equal(a, b)
    nothing = torch.full_like(targets, IGNORED)
    loss, dx, dweight = _with_gradients(linear_cross_entropy, x, weight, nothing, weights)
    assert loss == dx.abs().max() == dweight.abs().max() == 0


def test_large_logits_stay_finite() -> None:
    x, weight, targets, weights = _inputs(3, torch.float32)
    for result in _with_gradients(linear_cross_entropy, x * 1e4, weight, targets, weights):
        assert torch.isfinite(result).all()


def test_no_gradient_work_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Tensor) -> None:
        raise AssertionError("gradient computed")

    monkeypatch.setattr(loss_module, "vocabulary_gradient_", fail)
    x, weight, targets, weights = _inputs()
    expected = _reference(x, weight, targets, weights)
    torch.testing.assert_close(linear_cross_entropy(x, weight, targets, weights), expected)
    weight.requires_grad_()
    with torch.no_grad():
        linear_cross_entropy(x, weight, targets, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [7, 1000])
def test_rounding_is_that_of_the_reference(
    dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pooled over seeds; several chunks add their weight gradients in fp32, so they cost nothing.
    # The loss is one number: its bound is absolute, an eps for each of a few roundings of logits.
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", rows * VOCABULARY * 4)
    squares = torch.zeros(2, 3, dtype=torch.float64)
    for seed in range(20):
        inputs = _inputs(seed, dtype)
        exact = _with_gradients(_reference, *[x.double() for x in inputs[:2]], *inputs[2:])
        for row, function in enumerate((linear_cross_entropy, _reference)):
            for column, result in enumerate(_with_gradients(function, *inputs)):
                error = (result.double() - exact[column]).norm() / exact[column].norm()
                squares[row, column] += error**2
    ours, reference = squares.div(20).sqrt()
    assert (ours[1:] <= 1.2 * reference[1:]).all(), (ours, reference)
    assert (ours < 4 * torch.finfo(dtype).eps).all()

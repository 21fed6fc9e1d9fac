"""Attention: documents, the two implementations against each other, rounding."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ndtrain.ops.attention import attention, attention_backward

# Those of PyTorch, which also compute in fp64; `nki-sim` has a file of its own.
IMPLEMENTATIONS = ("reference", "sdpa")


def _inputs(seed: int, sequence: int = 40, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(sequence, 2, 4, 16), (sequence, 2, 2, 16), (sequence, 2, 2, 16)]
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


def _random_starts(seed: int, sequence: int, ends: float) -> Tensor:
    """A document ends after each token with probability `ends`."""
    generator = torch.Generator().manual_seed(seed)
    new = torch.rand(2, sequence, generator=generator) < ends
    new[:, 0] = True
    return (torch.arange(sequence) * new).cummax(-1).values


def _run(inputs: list[Tensor], starts: Tensor | None, implementation: str) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out, lse = attention(*leaves, starts, 0.25, implementation)
    generator = torch.Generator().manual_seed(99)
    dout = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return [out.detach(), lse.detach(), *torch.autograd.grad(out, leaves, dout)]


@pytest.mark.parametrize("ends", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_implementations_agree(seed: int, ends: float) -> None:
    inputs, starts = _inputs(seed), _random_starts(seed, 40, ends)
    for a, b in zip(*(_run(inputs, starts, name) for name in IMPLEMENTATIONS), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_many_documents_equal_a_mask(implementation: str) -> None:
    inputs = _inputs(4)
    starts = _random_starts(4, 40, ends=0.3)
    out, lse, *gradients = _run(inputs, starts, implementation)

    index = torch.arange(40)
    mask = (index[None] <= index[:, None]) & (index[None, None] >= starts[:, :, None])
    q, k, v = leaves = [x.requires_grad_() for x in inputs]
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q, k, v))
    expected = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask[:, None], scale=0.25, enable_gqa=True
    ).permute(2, 0, 1, 3)
    generator = torch.Generator().manual_seed(99)
    dout = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)
    for a, b in zip(gradients, torch.autograd.grad(expected, leaves, dout), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    scores = q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 0.25
    scores = scores.masked_fill(~mask[:, None], float("-inf"))
    torch.testing.assert_close(lse, scores.logsumexp(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_starts_mean_one_document(implementation: str) -> None:
    inputs = _inputs(5)
    zeros = torch.zeros(2, 40, dtype=torch.int64)
    pair = (_run(inputs, starts, implementation) for starts in (None, zeros))
    for a, b in zip(*pair, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_hidden_has_no_influence(implementation: str) -> None:
    inputs, starts = _inputs(6), _random_starts(6, 40, ends=0.1)
    starts[0] = torch.arange(40) // 16 * 16
    out = _run(inputs, starts, implementation)[0]
    first = int(starts[0, 20])
    for x in inputs[1:]:  # keys and values of row 0 before its document and after token 20
        x[:first, 0] = 1e3
        x[21:, 0] = 1e3
    again = _run(inputs, starts, implementation)[0]
    assert first == 16
    assert torch.equal(out[first:21, 0], again[first:21, 0])
    assert torch.equal(out[:, 1], again[:, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rounding(implementation: str, dtype: torch.dtype) -> None:
    """Against the same attention by PyTorch's operations, in the same dtype, pooled over seeds.

    In fp32 the gradients of q and k err up to 1.5 times as much: every flash attention computes
    the probabilities of backward from a rounded log-sum-exp. In bf16 it makes no difference.
    """
    squares = torch.zeros(2, 4, dtype=torch.float64)
    for seed in range(8):
        inputs = _inputs(seed, sequence=96, dtype=dtype)
        exact = _plain([x.double() for x in inputs])
        out, _, *gradients = _run(inputs, None, implementation)
        for row, results in enumerate(([out, *gradients], _plain(inputs))):
            for column, (result, right) in enumerate(zip(results, exact, strict=True)):
                squares[row, column] += ((result.double() - right).norm() / right.norm()) ** 2
    ours, plain = squares.div(8).sqrt()
    allowed = torch.tensor([1.2, 1.6, 1.6, 1.2] if dtype == torch.float32 else [1.1] * 4)
    assert (ours <= allowed * plain).all(), (ours, plain)
    assert (ours < 8 * torch.finfo(dtype).eps).all()


def _plain(inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    q, k, v = (x.permute(1, 2, 0, 3) for x in leaves)
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(-1, -2) * 0.25).masked_fill(hidden, float("-inf"))
    out = (scores.softmax(-1) @ v).permute(2, 0, 1, 3)
    generator = torch.Generator().manual_seed(99)
    dout = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, dout)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_large_scores_stay_finite(implementation: str) -> None:
    inputs = [x * 100 for x in _inputs(7, dtype=torch.float32)]
    for result in _run(inputs, _random_starts(7, 40, 0.2), implementation):
        assert torch.isfinite(result).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_backward_takes_a_log_sum_exp_over_more_keys_than_it_sees(implementation: str) -> None:
    """What context parallelism needs: out and lse of all keys give each block its share."""
    q, k, v = _inputs(8, sequence=8)
    out, lse = attention(q, k, v, None, 0.25, implementation)
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    dq, dk, dv = attention_backward(dout, q, k, v, out, lse, None, 0.25, implementation)
    last = slice(4, 8)  # the queries 4 to 7 against the keys 4 to 7, causal among themselves
    block = [x[last].contiguous() for x in (dout, q, k, v, out)]
    part = attention_backward(*block, lse[..., last].contiguous(), None, 0.25, implementation)
    torch.testing.assert_close(part[1], dk[last])
    torch.testing.assert_close(part[2], dv[last])
    assert not torch.allclose(part[0], dq[last])  # these queries see earlier keys too

"""The NumPy references against torch's autograd in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ndtrain.kernels.attention_backward_reference import attention_backward
from ndtrain.kernels.attention_forward_reference import attention_forward, visible_keys
from ndtrain.kernels.qk_norm_rope_reference import qk_norm_rope_backward, qk_norm_rope_forward
from ndtrain.kernels.rmsnorm_reference import rmsnorm_backward, rmsnorm_forward
from ndtrain.kernels.swiglu_reference import swiglu_backward, swiglu_forward

CASES: dict[str, dict[str, Any]] = {
    "causal": {},
    "documents": {"starts_BS": np.array([[0, 0, 2, 2, 4, 4, 4], [0, 1, 1, 1, 1, 5, 6]])},
    "window": {"window": 3},
    "offset": {"offset": 4},
    "first rows see nothing": {"offset": -2},
}


def leaf(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).requires_grad_()


def gradient_of(x: torch.Tensor) -> np.ndarray:
    assert x.grad is not None
    return x.grad.numpy()


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("case", CASES)
def test_attention(case: str) -> None:
    options: dict[str, Any] = {"scale": 0.3, **CASES[case]}
    q, k, v = random(0, 7, 2, 4, 8), random(1, 9, 2, 2, 8), random(2, 9, 2, 2, 8)
    dout = random(3, 7, 2, 4, 8)
    visible = torch.from_numpy(
        visible_keys(
            7, 9, options.get("starts_BS"), options.get("offset", 0), options.get("window", 0)
        )
    )[:, None]
    leaves = [leaf(x) for x in (q, k, v)]
    q_BNSD, k_BNSD, v_BNSD = (x.permute(1, 2, 0, 3) for x in leaves)
    out = F.scaled_dot_product_attention(
        q_BNSD, k_BNSD, v_BNSD, attn_mask=visible, scale=0.3, enable_gqa=True
    ).permute(2, 0, 1, 3)
    seen = visible.any(-1).expand(2, 4, 7).permute(2, 0, 1)
    out = torch.where(seen[..., None], out, 0.0)
    out.backward(torch.from_numpy(dout))
    ours, lse = attention_forward(q, k, v, **options)
    np.testing.assert_allclose(ours, out.detach().numpy(), atol=1e-12)
    gradients = attention_backward(dout, q, k, v, ours, lse, **options)
    for gradient, x in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient, gradient_of(x), atol=1e-12)


def test_rmsnorm() -> None:
    x, weight, dy = random(0, 3, 2, 16), random(1, 16), random(2, 3, 2, 16)
    leaves = leaf(x), leaf(weight)
    y = F.rms_norm(leaves[0], (16,), leaves[1], eps=1e-6)
    y.backward(torch.from_numpy(dy))
    ours, inverse_rms = rmsnorm_forward(x, weight, 1e-6)
    np.testing.assert_allclose(ours, y.detach().numpy(), atol=1e-12)
    for gradient, wanted in zip(rmsnorm_backward(dy, x, weight, inverse_rms), leaves, strict=True):
        np.testing.assert_allclose(gradient, gradient_of(wanted), atol=1e-12)


def test_qk_norm_rope() -> None:
    q, k, q_weight, k_weight = (
        random(0, 5, 2, 4, 8),
        random(1, 5, 2, 2, 8),
        random(2, 8),
        random(3, 8),
    )
    angles = random(4, 5, 2, 1, 4)
    cos, sin = np.cos(angles), np.sin(angles)
    dq_out, dk_out = random(5, *q.shape), random(6, *k.shape)
    leaves = [leaf(x) for x in (q, k, q_weight, k_weight)]

    def torch_version(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        first, second = F.rms_norm(x, (8,), weight, eps=1e-6).chunk(2, dim=-1)
        c, s = torch.from_numpy(cos), torch.from_numpy(sin)
        return torch.cat([first * c - second * s, second * c + first * s], dim=-1)

    q_out, k_out = torch_version(leaves[0], leaves[2]), torch_version(leaves[1], leaves[3])
    torch.autograd.backward([q_out, k_out], [torch.from_numpy(dq_out), torch.from_numpy(dk_out)])
    ours = qk_norm_rope_forward(q, k, q_weight, k_weight, cos, sin)
    np.testing.assert_allclose(ours[0], q_out.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(ours[1], k_out.detach().numpy(), atol=1e-12)
    gradients = qk_norm_rope_backward(dq_out, dk_out, q, k, q_weight, k_weight, cos, sin)
    for gradient, x in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient, gradient_of(x), atol=1e-12)


def test_swiglu() -> None:
    gate_up, dy = random(0, 3, 2, 10), random(1, 3, 2, 5)
    x = leaf(gate_up)
    gate, up = x.chunk(2, dim=-1)
    y = F.silu(gate) * up
    y.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(swiglu_forward(gate_up), y.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(swiglu_backward(dy, gate_up), gradient_of(x), atol=1e-12)

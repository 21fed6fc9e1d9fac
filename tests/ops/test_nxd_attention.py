"""neuronx-distributed's attention as the attention op, against a stand-in with its layouts.

The stand-in has the two functions of `neuronx_distributed.kernels.flash_attn` (release 2.29) with
their shapes, and computes in fp64; the real ones have never been called from here.
"""

import sys
import types

import pytest
import torch
from torch import Tensor

from ndtrain.ops.attention import attention
from ndtrain.ops.nxd_attention import MODULE

SEQUENCE, SCALE = 256, 32**-0.5


def scores(q_BNDS: Tensor, k_BNDS: Tensor, scale: float) -> Tensor:
    product = torch.einsum("bndi,bndj->bnij", q_BNDS, k_BNDS) * scale
    return product.masked_fill(torch.ones_like(product).triu(1).bool(), float("-inf"))


def forward(q, k, v, *, causal, mixed_precision, seed, dropout_p, softmax_scale, lnc,  # type: ignore[no-untyped-def]
            use_sharded=False, transpose_nki_inputs=True):  # fmt: skip
    assert causal
    assert mixed_precision
    assert transpose_nki_inputs
    assert (dropout_p, lnc, use_sharded) == (0.0, 1, False)
    assert q.shape == k.shape == v.shape == (2, 4, 32, SEQUENCE)
    assert all(x.is_contiguous() for x in (q, k, v))
    product = scores(q, k, softmax_scale)
    out_BNSD = torch.einsum("bnij,bndj->bnid", product.softmax(-1), v)
    lse_BNPT = torch.logsumexp(product, -1).unflatten(-1, (-1, 128)).transpose(-1, -2)
    return out_BNSD, lse_BNPT


def backward(q, k, v, o, dout, lse, *, seed, causal, mixed_precision, dropout_p, softmax_scale,  # type: ignore[no-untyped-def]
             lnc, use_sharded=False):  # fmt: skip
    assert o.shape == dout.shape == q.shape
    assert lse.shape == (2, 4, 128, SEQUENCE // 128)
    lse_BNS = lse.transpose(-1, -2).flatten(-2)
    p = (scores(q, k, softmax_scale) - lse_BNS[..., None]).exp()
    dp = torch.einsum("bndi,bndj->bnij", dout, v)
    ds = p * (dp - (dout * o).sum(2)[..., None]) * softmax_scale
    return (
        torch.einsum("bnij,bndj->bndi", ds, k),
        torch.einsum("bnij,bndi->bndj", ds, q),
        torch.einsum("bnij,bndi->bndj", p, dout),
    )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(MODULE)
    module._flash_attn_forward = forward  # type: ignore[attr-defined]
    module._flash_attn_backward = backward  # type: ignore[attr-defined]
    module.get_seed = lambda dropout_p, device: torch.zeros(1, dtype=torch.int32)  # type: ignore[attr-defined]
    parts = MODULE.split(".")
    for end in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType("package"))
    monkeypatch.setitem(sys.modules, MODULE, module)


def results(implementation: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(
            SEQUENCE, 2, heads, 32, generator=generator, dtype=torch.float64
        ).requires_grad_()
        for heads in (4, 2, 2)
    ]
    out, lse = attention(*leaves, None, SCALE, implementation)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    return [out.detach(), lse.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@pytest.mark.usefixtures("stand_in")
def test_layouts_heads_and_gradients_are_those_of_the_reference() -> None:
    for mine, right in zip(results("nxd"), results("reference"), strict=True):
        assert mine.shape == right.shape
        # lse travels in fp32: 24 bits of a number below 8.
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=2e-6)

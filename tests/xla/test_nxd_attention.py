"""`ops.attention=nxd` through neuronx-distributed's own functions; the kernels below are stand-ins.

Run with NDTRAIN_NXD naming a checkout at commit fbac34901a4a1b6ccfbc8cbc4f0be2bdfb8e0b44 (release
2.29); skipped without. The kernels are the compiler's, which is closed; their arguments and layouts
are those of the version that nki-samples had (commit 6dc4cb2, reference/attention.py).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.ops.attention import attention
from tests.rank_pool import RankPool
from tests.xla.nxd_checkout import checkout, install, module

BATCH, HEADS, KV_HEADS, HEAD_DIM, SEQUENCE = 2, 4, 2, 32, 256
SCALE = HEAD_DIM**-0.5
SHAPE = (BATCH, HEADS, HEAD_DIM, SEQUENCE)
ROW_SUMS = (BATCH, HEADS, 128, SEQUENCE // 128)


class OnGrid:
    """A kernel, called as NKI's are: kernel[batch, heads](...)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __getitem__(self, grid: tuple[int, int]) -> Callable[..., Any]:
        assert grid == (BATCH, HEADS)
        return self.function


def scores(q_BNDS: Tensor, k_BNDS: Tensor, scale: float) -> Tensor:
    product = torch.einsum("bndi,bndj->bnij", q_BNDS, k_BNDS) * scale
    return product.masked_fill(torch.ones_like(product).triu(1).bool(), float("-inf"))


def flash_fwd(q, k, v, seed, logit_bias=None, softmax_scale=None, use_causal_mask=True,  # type: ignore[no-untyped-def]
              sliding_window=-1, mixed_precision=True, dropout_p=0.0, config=None):  # fmt: skip
    assert q.shape == k.shape == v.shape == SHAPE
    assert (seed, dropout_p, use_causal_mask, mixed_precision) == (None, 0.0, True, True)
    assert config == {"should_transpose_v": True}
    product = scores(q, k, softmax_scale)
    lse_BNPT = torch.logsumexp(product, -1).unflatten(-1, (-1, 128)).transpose(-1, -2)
    return torch.einsum("bnij,bndj->bnid", product.softmax(-1), v), lse_BNPT


def flash_attn_bwd(q_ref, k_ref, v_ref, o_ref, dy_ref, lse_ref, seed_ref, logit_bias_ref=None,  # type: ignore[no-untyped-def]
                   use_causal_mask=False, mixed_precision=False, dropout_p=0.0,
                   softmax_scale=None):  # fmt: skip
    assert all(x.shape == SHAPE for x in (q_ref, k_ref, v_ref, o_ref, dy_ref))
    assert len({x.dtype for x in (q_ref, k_ref, v_ref, o_ref, dy_ref)}) == 1
    assert lse_ref.shape == ROW_SUMS
    assert (seed_ref, dropout_p, use_causal_mask, mixed_precision) == (None, 0.0, True, True)
    lse_BNS = lse_ref.transpose(-1, -2).flatten(-2)
    p = (scores(q_ref, k_ref, softmax_scale) - lse_BNS[..., None]).exp()
    dp = torch.einsum("bndi,bndj->bnij", dy_ref, v_ref)
    ds = p * (dp - (dy_ref * o_ref).sum(2)[..., None]) * softmax_scale
    return (
        torch.einsum("bnij,bndj->bndi", ds, k_ref),
        torch.einsum("bnij,bndi->bndj", ds, q_ref),
        torch.einsum("bnij,bndi->bndj", p, dy_ref),
    )


def results(implementation: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(
            SEQUENCE, BATCH, heads, HEAD_DIM, generator=generator, dtype=torch.float64
        ).requires_grad_()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    out, lse = attention(*leaves, None, SCALE, implementation)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    return [out.detach(), lse.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


def both(rank: int, root: Path) -> list[tuple[Tensor, Tensor]]:
    install(root)
    kernels = sys.modules["neuronxcc.nki.kernels"]
    vars(kernels).update(flash_fwd=OnGrid(flash_fwd), flash_attn_bwd=OnGrid(flash_attn_bwd))
    assert str(root) in module("kernels.flash_attn").__file__
    return list(zip(results("nxd"), results("reference"), strict=True))


def test_its_functions_take_what_they_are_handed_and_give_the_reference() -> None:
    root = checkout()
    pool = RankPool(1)  # its own process: the stand-ins stay in it
    try:
        (pairs,) = pool.run(both, root)
    finally:
        pool.close()
    for mine, right in pairs:
        assert mine.shape == right.shape
        # lse travels in fp32: 24 bits of a number below 8.
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=2e-6)

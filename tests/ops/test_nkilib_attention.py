"""AWS's attention kernels as the attention op, in the simulator, from a checkout the user names.

Run with NDTRAIN_NKI_LIBRARY at d2ad3a579498d1888aa8740af97fd325dd5f2740; skipped without.
"""

import os

import pytest
import torch
from torch import Tensor

from ndtrain.ops.attention import attention
from ndtrain.ops.attention_choice import Problem, choose
from ndtrain.ops.nkilib_attention import VARIABLE, divides

pytest.importorskip("ml_dtypes", reason="the simulator needs the extra nkisim")
SCALE = 64**-0.5


def results(
    implementation: str, sequence: int, dtype: torch.dtype, documents: bool
) -> list[Tensor]:
    """out, lse, dq, dk, dv on inputs that bf16 holds exactly."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(sequence, 2, heads, 64, generator=generator).bfloat16().to(dtype)
        for heads in (4, 2, 2)
    )
    leaves = [x.requires_grad_() for x in (q, k, v)]
    starts = torch.zeros(2, sequence, dtype=torch.int32)
    starts[0, 37:] = 37
    starts[1, 100:] = 100
    starts[1, 130:] = 130
    out, lse = attention(*leaves, starts if documents else None, SCALE, implementation)
    weight = torch.randn(out.shape, generator=generator).bfloat16().to(dtype)
    return [out.detach(), lse.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} does not name a checkout")
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("sequence", [256, 512])
def test_it_computes_attention_and_its_gradients(sequence: int, documents: bool) -> None:
    """Within what its own tests allow for bf16: 2e-2 of the largest element."""
    problem = Problem(sequence, 64, torch.bfloat16, documents)
    implementation = choose("nkilib", torch.device("cpu"), problem)
    exact = results("reference", sequence, torch.float64, documents)
    for mine, right in zip(
        results(implementation, sequence, torch.bfloat16, documents), exact, strict=True
    ):
        assert mine.shape == right.shape
        assert (mine.double() - right).abs().max() <= 2e-2 * right.abs().max()


@pytest.mark.parametrize(
    ("sequence", "fits"),
    [(128, True), (384, True), (512, True), (640, False), (4096, True), (100, False)],
)
def test_lengths(sequence: int, fits: bool) -> None:
    assert divides(sequence) is fits

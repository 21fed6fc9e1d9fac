"""bf16: the error against float64 is at most 1.2 times that of the same algorithm in torch.

The torch versions round to bf16 exactly where the kernels do: the probabilities, dS, and results.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ndtrain.kernels.attention_forward_reference import visible_keys

from tests.kernels.kernel_cases import BF16, Attention, documents, normal, reference, run, wide

BOUND = 1.2


def tensor(array: np.ndarray) -> torch.Tensor:
    """The array in fp32; bf16 values are kept exactly."""
    return torch.from_numpy(np.asarray(array).astype(np.float32))


def rounded(x: torch.Tensor | None) -> torch.Tensor:
    assert x is not None
    return x.to(torch.bfloat16).float()


def check(ours: Any, torchs: Any, wanted: Any) -> None:
    """Root mean square errors of each result."""
    for mine, theirs, want in zip(ours, torchs, wanted, strict=True):
        error = np.sqrt(np.mean((wide(mine)[0] - want) ** 2))
        limit = np.sqrt(np.mean((theirs.double().numpy() - want) ** 2))
        assert error <= BOUND * limit


class TorchAttention:
    """Flash attention with bf16 operands and fp32 sums: P is rounded before it meets V."""

    def __init__(self, case: Attention) -> None:
        group = case.q.shape[2] // case.k.shape[2]
        self.group, self.scale = group, case.options["scale"]
        self.q, self.dout = (tensor(x).permute(1, 2, 0, 3) for x in (case.q, case.dout))
        self.k, self.v = (
            tensor(x).permute(1, 2, 0, 3).repeat_interleave(group, 1) for x in (case.k, case.v)
        )
        masks = {key: case.options.get(key, 0) for key in ("offset", "window")}
        visible = visible_keys(len(case.q), len(case.k), case.options.get("starts_BS"), **masks)
        scores = self.scale * self.q @ self.k.mT
        self.scores = scores.masked_fill(~torch.from_numpy(visible)[:, None], -torch.inf)

    def forward(self) -> torch.Tensor:
        highest = self.scores.amax(-1, keepdim=True)
        exponentials = (self.scores - highest).exp()
        total = exponentials.sum(-1, keepdim=True)
        return rounded(rounded(exponentials) @ self.v / total).permute(2, 0, 1, 3)

    def backward(self, out: np.ndarray, lse: np.ndarray) -> list[torch.Tensor]:
        exact = (self.scores - tensor(lse)[..., None]).exp()
        probabilities = rounded(exact)
        delta = (self.dout * tensor(out).permute(1, 2, 0, 3)).sum(-1, keepdim=True)
        dscores = rounded((self.dout @ self.v.mT - delta) * probabilities)
        dq = self.scale * dscores @ self.k
        dk, dv = self.scale * dscores.mT @ self.q, probabilities.mT @ self.dout
        dk, dv = (x.unflatten(1, (-1, self.group)).sum(2) for x in (dk, dv))
        return [rounded(x).permute(2, 0, 1, 3) for x in (dq, dk, dv)]


PROBLEMS: dict[str, dict[str, Any]] = {
    "causal": {"dim": 128},
    "grouped": {"heads": 4, "kv_heads": 1},
    "window": {"window": 90},
    "documents": {"starts_BS": documents(200, 1)},
    "offset": {"offset": 64, "dim": 128},
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_attention(name: str, target: str) -> None:
    case = Attention(200, 200, dtype=BF16, **PROBLEMS[name])
    theirs = TorchAttention(case)
    out, lse = case.forward(target=target)
    check([out], [theirs.forward()], [case.out])
    assert np.max(np.abs(lse - case.lse)) < 2e-6
    rounded_out = case.out.astype(BF16)
    check(
        case.backward(target=target),
        theirs.backward(rounded_out, case.lse.astype(np.float32)),
        case.gradients(),
    )


@pytest.mark.slow
def test_attention_of_many_keys() -> None:
    """Errors do not grow with the number of groups of keys that are merged."""
    case = Attention(128, 6000, dim=128, dtype=BF16, offset=5872)
    out, _ = case.forward(target="trn2")
    check([out], [TorchAttention(case).forward()], [case.out])


def bf16_results(name: str, *arrays: np.ndarray, target: str) -> tuple[Any, Any]:
    """(simulated, float64) results as tuples."""
    ours = run(name, *arrays, target=target).outputs
    wanted = reference(name)(*wide(*arrays))
    return (ours, wanted) if isinstance(ours, tuple) else ((ours,), (wanted,))


def test_rmsnorm(target: str) -> None:
    x, weight, dy = (normal(i, s, BF16) for i, s in enumerate([(130, 256), (256,), (130, 256)]))
    (y, inverse_rms), (wanted, _) = bf16_results("rmsnorm_forward", x, weight, target=target)
    leaves = tensor(x).requires_grad_(), tensor(weight).requires_grad_()
    theirs = F.rms_norm(leaves[0], (256,), leaves[1], eps=1e-6)
    theirs.backward(tensor(dy))
    check([y], [rounded(theirs.detach())], [wanted])
    (dx, dweight), wanted = bf16_results(
        "rmsnorm_backward", dy, x, weight, np.asarray(inverse_rms), target=target
    )
    check([dx], [rounded(leaves[0].grad)], wanted[:1])
    np.testing.assert_allclose(dweight, wanted[1], atol=1e-4)


def test_swiglu(target: str) -> None:
    gate_up, dy = normal(0, (130, 256), BF16), normal(1, (130, 128), BF16)
    leaf = tensor(gate_up).requires_grad_()
    gate, up = leaf.chunk(2, dim=-1)
    theirs = F.silu(gate) * up
    theirs.backward(tensor(dy))
    ours, wanted = bf16_results("swiglu_forward", gate_up, target=target)
    check(ours, [rounded(theirs.detach())], wanted)
    ours, wanted = bf16_results("swiglu_backward", dy, gate_up, target=target)
    check(ours, [rounded(leaf.grad)], wanted)


def test_qk_norm_rope(target: str) -> None:
    shapes = [(130, 1, 4, 64), (130, 1, 2, 64), (64,), (64,)]
    q, k, q_weight, k_weight = (normal(i, shape, BF16) for i, shape in enumerate(shapes))
    angles = normal(4, (130, 1, 1, 32))
    tables = np.cos(angles), np.sin(angles)
    gradients = normal(5, q.shape, BF16), normal(6, k.shape, BF16)
    leaves = [tensor(x).requires_grad_() for x in (q, k, q_weight, k_weight)]
    theirs = []
    for x, weight in ((leaves[0], leaves[2]), (leaves[1], leaves[3])):
        first, second = F.rms_norm(x, (64,), weight, eps=1e-6).chunk(2, dim=-1)
        cos, sin = (tensor(table) for table in tables)
        theirs.append(torch.cat([first * cos - second * sin, second * cos + first * sin], -1))
    torch.autograd.backward(theirs, [tensor(g) for g in gradients])
    arguments = (q, k, q_weight, k_weight, *tables)
    ours, wanted = bf16_results("qk_norm_rope_forward", *arguments, target=target)
    check(ours, [rounded(y.detach()) for y in theirs], wanted)
    ours, wanted = bf16_results("qk_norm_rope_backward", *gradients, *arguments, target=target)
    check(ours[:2], [rounded(x.grad) for x in leaves[:2]], wanted[:2])
    for mine, want in zip(ours[2:], wanted[2:], strict=True):
        np.testing.assert_allclose(mine, want, atol=1e-4)

"""ndtrain's ops give on torch-xla the numbers that they give on the CPU, forward and backward.

Below an op torch-xla loses what is written into a view, and reads one element by element; the ops
that do so have forms by value.
"""

import pytest
import torch
from torch import Tensor

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.ops.attention import attention
from ndtrain.ops.loss import linear_cross_entropy
from ndtrain.ops.norm import rms_norm
from ndtrain.ops.rope import rope, rope_tables
from ndtrain.ops.swiglu import swiglu
from ndtrain.runtime.start_xla import start_xla
from ndtrain.runtime.xla import hlo_text

S, B, N, K, D, H, V = 6, 2, 4, 2, 8, 16, 12
COS, SIN = rope_tables(torch.arange(S).expand(B, -1), D, 1e4, torch.float32)
STARTS = torch.tensor([[0, 0, 0, 3, 3, 3], [0] * 6], dtype=torch.int32)
TARGETS = torch.tensor([3, 0, -100, 11, 5, 5])
WEIGHTS = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2, 0.1])


def on(x: Tensor, constant: Tensor) -> Tensor:
    return constant.to(x.device)


OPS = {
    "rms_norm": (lambda x, w: rms_norm(x, w, 1e-6), [(S, B, H), (H,)]),
    "rope": (lambda x: rope(x, on(x, COS), on(x, SIN)), [(S, B, N, D)]),
    "swiglu": (swiglu, [(S, B, 2 * H)]),
    "attention": (
        lambda q, k, v: attention(q, k, v, on(q, STARTS), 0.3, "reference")[0],
        [(S, B, N, D), (S, B, K, D), (S, B, K, D)],
    ),
    "loss": (
        lambda x, w: linear_cross_entropy(x, w, on(x, TARGETS), on(x, WEIGHTS)),
        [(S, H), (V, H)],
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_an_op_and_its_gradients_are_those_of_the_cpu(name: str, dtype: torch.dtype) -> None:
    """Both round a result of the wide dtype once: they differ by the order of sums below it."""
    op, shapes = OPS[name]
    device = start_xla(1, 1, 1).device
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    found = {}
    for where in ("cpu", device):
        leaves = [x.to(where).detach().requires_grad_() for x in inputs]
        y = op(*leaves)
        # Not a sum: its gradient would be the same everywhere.
        weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(where)
        (y.float() * weights if y.ndim else y).sum().backward()
        found[str(where)] = [y.detach().cpu(), *(x.grad.cpu() for x in leaves)]
    unit = torch.finfo(dtype).eps
    for expected, actual in zip(found["cpu"], found[str(device)], strict=True):
        assert expected.abs().max() > 0.01
        largest = expected.double().abs().max()
        assert (actual.double() - expected.double()).abs().max() <= 32 * unit * largest


@pytest.mark.parametrize("name", ["rms_norm", "rope", "swiglu", "attention"])
def test_no_op_reads_a_part_by_an_index(name: str) -> None:
    """As it does a view below an op: by a gather of single elements, with an uploaded index."""
    op, shapes = OPS[name]
    device = start_xla(1, 1, 1).device
    leaves = [torch.zeros(shape, device=device, requires_grad=True) for shape in shapes]
    y = op(*leaves)
    text = hlo_text([y, *torch.autograd.grad(y, leaves, torch.ones_like(y))])
    assert not [line for line in text.splitlines() if " gather(" in line or " scatter(" in line]

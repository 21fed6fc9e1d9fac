"""The ops inside what surrounds them in training: activation checkpointing and torch.compile."""

import shutil

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ndtrain.models.qwen3.model import Block
from ndtrain.models.qwen3.shape import Shape
from ndtrain.ops.cost import CostCounter
from ndtrain.ops.rope import rope_tables

SHAPE = Shape(
    vocab_size=16,
    hidden_size=24,
    intermediate_size=40,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_embeddings=False,
    qk_norm=True,
    max_positions=64,
)


def _block(dtype: torch.dtype) -> tuple[Block, Tensor, tuple[Tensor, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    block = Block(SHAPE, "sdpa").to(dtype)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype) * 0.3
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3], [0, 1, 0, 1, 0, 1, 2]])
    rotary = rope_tables(positions, SHAPE.head_dim, SHAPE.rope_theta, dtype)
    x_SBH = torch.randn(7, 2, SHAPE.hidden_size, generator=generator).to(dtype).requires_grad_()
    return block, x_SBH, rotary, torch.arange(7) - positions


def _gradients(out: Tensor, block: Block, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    return list(torch.autograd.grad(out, [x, *block.parameters()], torch.randn_like(out)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_changes_no_bit(dtype: torch.dtype, use_reentrant: bool) -> None:
    block, x, rotary, starts = _block(dtype)
    plain = _gradients(block(x, rotary, starts), block, x)
    with CostCounter() as counter:
        out = checkpoint(block, x, rotary, starts, use_reentrant=use_reentrant)
        torch.manual_seed(1)
        out.backward(torch.randn_like(out))
    again = [x.grad, *[parameter.grad for parameter in block.parameters()]]
    for a, b in zip(plain, again, strict=True):
        assert b is not None
        assert torch.equal(a, b)
    once = 4 * 2 * SHAPE.num_heads * 7 * 8 // 2 * SHAPE.head_dim
    assert counter.by_op["ndtrain.attention"].flops == 2 * once  # it did run again


def _check_compiled(backend: str) -> None:
    block, x, rotary, starts = _block(torch.float32)
    plain_out = block(x, rotary, starts)
    plain = _gradients(plain_out, block, x)
    torch.compiler.reset()
    out = torch.compile(block, fullgraph=True, backend=backend)(x, rotary, starts)
    torch.testing.assert_close(out, plain_out, rtol=1e-5, atol=1e-5)
    for a, b in zip(_gradients(out, block, x), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_block_traces_into_one_graph_forward_and_backward() -> None:
    _check_compiled("aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile: no C++ compiler"
)
def test_a_compiled_block_equals_the_plain_one() -> None:
    _check_compiled("inductor")

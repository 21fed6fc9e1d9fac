"""What is counted equals the formula, on real and on meta tensors, by our counter and PyTorch's."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.models.qwen3.shape import SIZES, Shape
from ndtrain.observe.metrics import causal_pairs, step_flops
from ndtrain.ops.cost import Cost, CostCounter, nbytes
from ndtrain.ops.swiglu import swiglu

SHAPE = Shape(
    vocab_size=96,
    hidden_size=24,
    intermediate_size=40,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_embeddings=False,
    qk_norm=True,
    max_positions=64,
)
ROWS, LENGTH = 2, 16
MATMULS = ("aten.mm", "aten.addmm", "aten.bmm")
ATTENTION = ("ndtrain.attention", "ndtrain.attention_backward")


def _step(shape: Shape, device: str, rows: int = ROWS, length: int = LENGTH) -> None:
    with torch.device(device):
        model = Qwen3(shape)
        for parameter in model.parameters():
            parameter.data.fill_(0.01)
        tokens = torch.zeros(rows, length, dtype=torch.int64)
        weights = torch.ones(rows, length)
    model.loss(tokens, tokens, weights).backward()


def _expected(shape: Shape, rows: int, length: int) -> tuple[int, int]:
    """FLOPs of the matmuls and of attention in one step.

    Attention's backward is five products where the model's FLOPs count four: it computes the
    scores again.
    """
    matmuls = 6 * shape.num_matmul_parameters() * rows * length
    pairs = shape.num_layers * shape.num_heads * rows * causal_pairs(length)
    return matmuls, 14 * shape.head_dim * pairs


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_of_a_step_are_those_of_the_formula(device: str) -> None:
    with CostCounter() as counter, FlopCounterMode(display=False) as torch_counter:
        _step(SHAPE, device)
    matmuls, attention = _expected(SHAPE, ROWS, LENGTH)
    flops = {name: cost.flops for name, cost in counter.by_op.items()}
    assert sum(flops.get(name, 0) for name in MATMULS) == matmuls
    assert sum(flops[name] for name in ATTENTION) == attention
    pairs = ROWS * causal_pairs(LENGTH)
    recomputed_scores = attention // 7
    model_flops = step_flops(SHAPE, num_tokens=ROWS * LENGTH, num_pairs=pairs)
    assert matmuls + attention - recomputed_scores == model_flops
    assert torch_counter.get_total_flops() == counter.total.flops
    rest = counter.total.flops - matmuls - attention
    assert 0 < rest < 0.1 * counter.total.flops  # norms, RoPE, SwiGLU, softmax


def test_meta_costs_what_the_cpu_does() -> None:
    counts = []
    for device in ("cpu", "meta"):
        with CostCounter() as counter:
            _step(SHAPE, device)
        counts.append({k: v for k, v in counter.by_op.items() if k.startswith("ndtrain")})
    assert counts[0] == counts[1]
    assert set(counts[0]) == {
        "ndtrain.attention",
        "ndtrain.attention_backward",
        "ndtrain.rms_norm_forward",
        "ndtrain.rms_norm_backward",
        "ndtrain.rope",
        "ndtrain.swiglu",
        "ndtrain.swiglu_backward",
        "ndtrain.vocabulary_statistics",
        "ndtrain.vocabulary_gradient_",
    }
    assert all(cost.flops > 0 and cost.num_bytes > 0 for cost in counts[0].values())


def test_a_published_size_is_counted_without_its_memory() -> None:
    shape = SIZES["qwen3_0.6b"]
    with CostCounter() as counter:
        _step(shape, "meta", rows=1, length=4096)
    matmuls, attention = _expected(shape, 1, 4096)
    flops = {name: cost.flops for name, cost in counter.by_op.items()}
    assert sum(flops.get(name, 0) for name in MATMULS) == matmuls
    assert sum(flops[name] for name in ATTENTION) == attention


def test_bytes_are_what_is_read_and_written() -> None:
    gate_up = torch.zeros(3, 4, 20, dtype=torch.bfloat16)
    with CostCounter() as counter:
        y = swiglu(gate_up)
        doubled = y + y
        y.view(12, 10)[2:]  # views move nothing
    assert counter.by_op["ndtrain.swiglu"].num_bytes == 2 * (3 * 4 * 20 + 3 * 4 * 10)
    assert counter.by_op["aten.add"] == Cost(0, 3 * doubled.numel() * 2)
    assert counter.total.num_bytes == 2 * (3 * 4 * 30) + 3 * 120 * 2


def test_a_gather_reads_what_it_picks() -> None:
    with CostCounter() as counter:
        torch.zeros(100, 6).index_select(0, torch.tensor([3, 5]))
    assert counter.by_op["aten.index_select"] == Cost(0, 2 * 2 * 6 * 4 + 2 * 8)


def test_costs_add_up() -> None:
    assert Cost(1, 2, 3) + Cost(10, 20, 2) == Cost(11, 22, 3)
    tensors = [torch.zeros(3), (torch.zeros(2, 2, dtype=torch.bfloat16), None), 4]
    assert nbytes(*tensors) == 3 * 4 + 4 * 2

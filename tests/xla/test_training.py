"""Training on torch-xla's CPU device: the curve of the cpu runtime, and one compilation.

The bound: both runtimes compute in fp32, in other orders of summation; how far rounding alone moves
this curve is measured, as the distance of the cpu runtime's fp32 curve from its fp64 curve.
"""

import functools
import math

import pytest
import torch

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.parallel.recompute import Recompute
from ndtrain.parallel.zero import device_adamw, device_rate
from ndtrain.parallel.zero_traced import TracedAdamW
from ndtrain.runtime.start_xla import start_xla
from ndtrain.runtime.xla import XlaTrace
from tests.parallel.small import SHAPE
from tests.rank_pool import ranks
from tests.xla.small_run import (
    LEARNING_RATE,
    OPTIM,
    Curve,
    start,
    step_of,
    train,
    train_on_cpu,
    train_rank,
)

STEPS = 20
FACTOR = (
    4  # two fp32 curves may err in opposite directions, and a maximum of few is a rough measure
)


@functools.cache
def one_rank() -> Curve:
    return train(start(start_xla(1, 1, SHAPE.num_kv_heads)), STEPS)


@functools.cache
def exact() -> Curve:
    return train_on_cpu(STEPS, torch.float64)


def distance(some: list[float], other: list[float]) -> float:
    """The largest, of steps that both have."""
    return max(abs(a - b) for a, b in zip(some, other, strict=False))


def assert_same_curve(curve: Curve) -> None:
    rounding = train_on_cpu(len(curve.losses), torch.float32)
    for field in ("losses", "norms"):
        bound = FACTOR * distance(getattr(rounding, field), getattr(exact(), field))
        assert 0 < bound < 1e-3
        assert distance(getattr(curve, field), getattr(exact(), field)) <= bound


def test_one_rank_has_the_curve_of_the_cpu_runtime() -> None:
    curve = one_rank()
    assert curve.losses[-1] < curve.losses[0]
    assert_same_curve(curve)


def test_nothing_is_compiled_after_the_second_step() -> None:
    """Learning rate, number of targets and data change; shapes do not."""
    counts = one_rank().num_compilations
    assert counts[0] > 0
    assert counts[1:] == [counts[1]] * (STEPS - 1)
    compiled = [note for note in one_rank().notes if note.startswith("compiled the training step")]
    assert len(compiled) <= 2  # none, where an earlier test of this process had the same graph
    assert not [note for note in one_rank().notes if note.startswith("warning")]


def test_a_rate_of_zero_or_one_is_no_other_graph() -> None:
    """torch-xla makes a constant of a scalar that is 0 or 1."""
    small = start(start_xla(1, 1, SHAPE.num_kv_heads))
    trace, counts = small.runtime.trace, []
    assert isinstance(trace, XlaTrace)
    for step, lr in enumerate([LEARNING_RATE, LEARNING_RATE, 0.0, 1e-5, 1.0, 0.0]):
        assert step_of(small, step, lr, lambda text: None).refusal is None
        counts.append(trace.num_compilations())
    assert counts[2:] == [counts[1]] * 4


def test_a_rate_of_zero_leaves_what_has_no_gradient_as_it_is() -> None:
    """torch's AdamW divides by the rate on a device; rows of an embedding may have no gradient."""
    device = start_xla(1, 1, SHAPE.num_kv_heads).device
    master = torch.nn.Parameter(torch.tensor([0.5, 0.0]).to(device))
    adamw = device_adamw(master, OPTIM, weight_decay=0.1)
    adamw.param_groups[0]["lr"] = device_rate(0.0, device)
    master.grad = torch.zeros_like(master)
    adamw.step()
    assert master.tolist() == [0.5, 0.0]


@pytest.mark.parametrize(("tp", "dp", "mode"), [(2, 1, "ring"), (2, 2, "chunk"), (1, 2, "off")])
def test_more_ranks_have_the_same_curve(tp: int, dp: int, mode: str) -> None:
    """gloo carries the collectives between graphs: on this device processes do not meet."""
    curves = ranks(tp * dp).run(train_rank, tp, dp, mode, 3)
    for curve in curves:
        assert curve.losses == curves[0].losses
        assert_same_curve(curve)
        assert curve.num_compilations[1:] == [curve.num_compilations[1]] * 2


@pytest.mark.parametrize("recomputed", ["selective", "full"])
def test_recomputation_leaves_the_curve_as_it_is(recomputed: Recompute) -> None:
    curve = train(start(start_xla(1, 1, SHAPE.num_kv_heads), recomputed=recomputed), 3)
    assert_same_curve(curve)
    assert curve.num_compilations[1:] == [curve.num_compilations[1]] * 2


@pytest.mark.parametrize(("mode", "recomputed"), [("chunk", "selective"), ("ring", "full")])
def test_so_does_it_on_two_tensor_ranks(mode: str, recomputed: Recompute) -> None:
    for curve in ranks(2).run(train_rank, 2, 1, mode, 3, recomputed):
        assert_same_curve(curve)
        assert curve.num_compilations[1:] == [curve.num_compilations[1]] * 2


def state(optimizer: TracedAdamW) -> list[torch.Tensor]:
    parts = []
    for bucket in optimizer.buckets:
        moments = optimizer.state_of(bucket)
        parts += [bucket.values, bucket.master, *(moments[kind] for kind in sorted(moments))]
    return [part.detach().cpu().clone() for part in parts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_changes_nothing_and_the_next_step_goes_on(dtype: torch.dtype) -> None:
    small = start(start_xla(1, 1, SHAPE.num_kv_heads), dtype=dtype)
    assert isinstance(small.optimizer, TracedAdamW)
    notes: list[str] = []
    assert step_of(small, 0, LEARNING_RATE, notes.append).refusal is None
    before = state(small.optimizer)
    weight = small.model.norm.weight
    good = weight.detach().cpu().clone()
    with torch.no_grad():
        weight[0] = math.inf
    result = step_of(small, 1, LEARNING_RATE, notes.append)
    assert result.refusal is not None
    assert result.refusal.exit_code == 3
    gradients = torch.cat([bucket.gradients.cpu() for bucket in small.optimizer.buckets])
    assert not gradients.isfinite().all()  # kept, to say where it came from
    with torch.no_grad():
        weight.copy_(good)
    for kept, old in zip(state(small.optimizer), before, strict=True):
        assert torch.equal(kept, old)
    small.optimizer.discard()
    good_step = step_of(small, 2, LEARNING_RATE, notes.append)
    assert good_step.refusal is None
    assert all(part.isfinite().all() for part in state(small.optimizer))

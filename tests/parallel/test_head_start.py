"""A column's gather is on its way while the row behind it still computes; no bit changes by it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.modes import Modes
from ndtrain.parallel import offload
from ndtrain.parallel.apply import materialize, parallelize
from ndtrain.parallel.functional import all_gather_matmul, matmul_reduce_scatter
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.offload import offload_activations
from ndtrain.parallel.recompute import recompute
from ndtrain.parallel.spans import record_local_modules
from ndtrain.runtime.runtime import Runtime, start_cpu
from tests.overlap.lone import ToldInline, lone
from tests.parallel.small import SHAPE, batch
from tests.rank_pool import ranks

PAIRS = {"attention.o": "attention.qkv", "mlp.down": "mlp.gate_up"}
EARLY = Modes.all("bulk")


def model_on(runtime: Runtime, modes: Modes, mode: str) -> Qwen3:
    with torch.device("meta"):
        model = Qwen3(SHAPE)
    shards = parallelize(model, runtime, modes)
    materialize(model, shards, RandomWeights(SHAPE, seed=3), torch.float32)
    recompute(model, mode)  # type: ignore[arg-type]
    return model


def loss_of(model: Qwen3, step: int) -> Tensor:
    tokens, targets, starts = batch(step, SHAPE)
    weights = torch.full(targets.shape, 1 / targets.numel())
    return model.loss(tokens, targets, weights, None, starts)


def events(
    modes: Modes, mode: str = "none", change: Callable[[Qwen3, Runtime], None] | None = None
) -> list[str]:
    """What a step computes and communicates, inline and so in the order of issue."""
    names: list[str] = []
    runtime = lone(2, 0, names.append, names.append, ToldInline)
    model = model_on(runtime, modes, mode)
    if change is not None:
        change(model, runtime)
    loss_of(model, 0).backward()
    return names


def early_gathers(names: list[str]) -> set[tuple[int, str]]:
    """(layer, column) whose gather of backward comes before the row's weight gradient."""
    return {
        (layer, column)
        for layer in range(SHAPE.num_layers)
        for row, column in PAIRS.items()
        if names.index(f"layers.{layer}.{column}.backward.gather")
        < names.index(f"layers.{layer}.{row}.backward.dweight")
    }


ALL = {(layer, column) for layer in range(SHAPE.num_layers) for column in PAIRS.values()}


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_every_column_has_a_head_start_whatever_is_recomputed(mode: str) -> None:
    names = events(EARLY, mode)
    assert early_gathers(names) == ALL
    backwards = [name for name in names if name.endswith("qkv.backward.gather")]
    assert len(backwards) == SHAPE.num_layers  # and it gathers once


def offloading(model: Qwen3, runtime: Runtime) -> None:
    offload_activations(model, runtime)


@pytest.mark.parametrize("change", [record_local_modules, offloading])
def test_hooks_and_offloaded_activations_do_not_hide_it(
    change: Callable[[Qwen3, Runtime], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "SMALLEST_BYTES", 512)
    assert early_gathers(events(EARLY, change=change)) == ALL


def test_none_without_it() -> None:
    assert early_gathers(events(replace(EARLY, early=frozenset()))) == set()
    only = replace(EARLY, early=frozenset(("qkv",)))
    assert early_gathers(events(only)) == {pair for pair in ALL if pair[1] == "attention.qkv"}


def gradients(rank: int, mode: Mode, early: bool, recomputed: str) -> dict[str, Tensor]:
    modes = Modes.all(mode)
    modes = modes if early else replace(modes, early=frozenset())
    model = model_on(start_cpu(2, 1, SHAPE.num_kv_heads), modes, recomputed)
    losses = [loss_of(model, step) for step in range(2)]  # both forwards before a backward
    torch.stack(losses).sum().backward()
    return {name: value.grad for name, value in model.named_parameters()}  # type: ignore[misc]


@pytest.mark.parametrize("recomputed", ["none", "selective", "full"])
@pytest.mark.parametrize("mode", ["bulk", "chunk", "ring", "ring2"])
def test_gradients_have_the_same_bits(mode: Mode, recomputed: str) -> None:
    pool = ranks(2)
    plain = pool.run(gradients, mode, False, recomputed)
    for found, expected in zip(pool.run(gradients, mode, True, recomputed), plain, strict=True):
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            assert torch.equal(gradient, expected[name]), name


def in_a_loop_of_ones_own(of_two: bool) -> list[str]:
    names: list[str] = []
    runtime = lone(2, 0, names.append, names.append, ToldInline)
    x, up, down = (torch.randn(shape).requires_grad_() for shape in ((4, 2, 8), (6, 8), (8, 6)))
    y = all_gather_matmul(x, up, runtime, "bulk", "up").relu()
    if of_two:
        y = y * all_gather_matmul(x, up, runtime, "bulk", "gate").sigmoid()
    matmul_reduce_scatter(y, down, runtime, "bulk", "down").sum().backward()
    return [name for name in names if ".backward." in name]


def test_the_nearest_column_of_a_loop_of_ones_own_begins_early() -> None:
    names = in_a_loop_of_ones_own(of_two=False)
    assert names.index("up.backward.gather") < names.index("down.backward.dweight")
    names = in_a_loop_of_ones_own(of_two=True)
    early = names[: names.index("down.backward.dweight")]
    assert sum(name.endswith(".gather") for name in early) == 2  # the row's own, and one
    for name in ("up.backward.gather", "gate.backward.gather"):
        assert names.count(name) == 1


def test_a_column_that_two_rows_read_gathers_once() -> None:
    names: list[str] = []
    runtime = lone(2, 0, names.append, names.append, ToldInline)
    x, up, down = (torch.randn(shape).requires_grad_() for shape in ((4, 2, 8), (6, 8), (8, 6)))
    h = all_gather_matmul(x, up, runtime, "bulk", "up")
    rows = [matmul_reduce_scatter(h, down, runtime, "bulk", name) for name in ("one", "two")]
    torch.stack(rows).sum().backward()
    assert names.count("up.backward.gather") == 1


def test_a_row_whose_x_no_column_made_begins_nothing() -> None:
    names: list[str] = []
    runtime = lone(2, 0, names.append, names.append, ToldInline)
    down = torch.randn(8, 6, requires_grad=True)
    x = nn.Parameter(torch.randn(4, 2, 8))
    # Through another row: what lies behind it has its own time.
    up = all_gather_matmul(x, torch.randn(6, 8, requires_grad=True), runtime, "bulk", "up")
    y = matmul_reduce_scatter(up, down, runtime, "bulk", "first")
    twice = torch.cat([y, y])[..., :6]
    matmul_reduce_scatter(twice, down, runtime, "bulk", "second").sum().backward()
    up_gather = names.index("up.backward.gather")
    assert names.index("second.backward.dweight") < up_gather
    assert up_gather < names.index("first.backward.dweight")

"""What recomputation runs again, counted in collectives, and what it does not keep meanwhile."""

import weakref
from collections import Counter

import pytest
from torch import Tensor

from tests.parallel.small import SHAPE, loss_of, start
from tests.rank_pool import ranks


def collectives(rank: int, mode: str) -> Counter:
    runtime, model, _, _ = start(SHAPE, 2, 1, mode=mode)
    loss_of(model, runtime, step=0)
    return Counter(
        span.name.removesuffix(".reduce_scatter").removesuffix(".scatter")
        for span in runtime.spans.drain()
        if span.track in ("gather", "scatter")
    )


@pytest.mark.parametrize(
    ("mode", "forward_runs"),
    [("none", (1, 1, 1)), ("selective", (1, 1, 1)), ("full", (2, 2, 1))],
)
def test_how_often_the_forward_collectives_of_a_block_run(mode, forward_runs):
    """Whole blocks gather and reduce again, all but the last reduce-scatter, which nobody needs."""
    for counts in ranks(2).run(collectives, mode):
        for layer in range(SHAPE.num_layers):
            gathers = counts[f"layers.{layer}.mlp.gate_up.gather.all_gather"]
            inner = counts[f"layers.{layer}.attention.o"]
            last = counts[f"layers.{layer}.mlp.down"]
            assert (gathers, inner, last) == forward_runs


def kept_until_backward(rank: int, tp: int, mode: str) -> set[str]:
    """Results of a block that are there when forward has ended."""
    runtime, model, _, _ = start(SHAPE, tp, 1, mode=mode)
    results: dict[str, weakref.ref[Tensor]] = {}
    block = model.layers[0]
    for name in ("attention.qkv", "attention.core", "mlp.gate_up", "mlp.activation"):

        def note(*arguments: object, name: str = name) -> None:
            # What autograd keeps is other tensors of the same memory.
            results[name] = weakref.ref(arguments[-1].untyped_storage())  # type: ignore[attr-defined]

        block.get_submodule(name).register_forward_hook(note)
    found: set[str] = set()

    def look(*_: object) -> None:
        found.update(name for name, result in results.items() if result() is not None)

    model.norm.register_forward_pre_hook(look)
    loss_of(model, runtime, step=0)
    return found


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize(
    ("mode", "kept"),
    [
        ("none", {"attention.qkv", "attention.core", "mlp.gate_up", "mlp.activation"}),
        ("selective", {"attention.qkv", "mlp.gate_up"}),
        ("full", set()),
    ],
)
def test_what_is_computed_again_is_not_kept(tp: int, mode: str, kept: set[str]) -> None:
    if tp == 1:
        assert kept_until_backward(0, 1, mode) == kept
    else:
        assert ranks(tp).run(kept_until_backward, tp, mode) == [kept, kept]

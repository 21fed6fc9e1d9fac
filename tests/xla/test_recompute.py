"""What a step with recomputation hands to a compiler; mutants are found.

No compiler has merged anything in this text. What tells whether one may: a recomputation that
depends on the gradient of its module's output is no copy of the forward, and cannot be run early.
"""

import gc
import weakref

import pytest
from torch import Tensor

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.models.qwen3.model import AttentionCore, Block
from ndtrain.overlap.hlo import HloGraph, Instruction
from ndtrain.overlap.modes import Modes
from ndtrain.parallel.recompute import Recompute
from ndtrain.parallel.zero_hlo import TracedStep, narrow
from ndtrain.runtime.xla import XlaTrace, hlo_text, trace_xla
from tests.xla.small_run import SHAPE

LAYERS = range(2)  # of a narrow copy
AGAIN = ("attention.qkv", "attention.o", "mlp.gate_up")  # in `full`; `down` is the last product


def traced(tp: int, mode: str, recomputed: Recompute) -> TracedStep:
    runtime = trace_xla(0, tp, 1, SHAPE.num_kv_heads)
    modes = Modes.all(mode)  # type: ignore[arg-type]
    return TracedStep.of(narrow(SHAPE, tp), runtime, True, modes, recomputed=recomputed)


def graph(tp: int, recomputed: Recompute, mode: str = "off") -> HloGraph:
    return HloGraph.read(traced(tp, mode, recomputed).hlo())


def dots(some: HloGraph, label: str) -> list[Instruction]:
    return [one for one in some.labelled(label) if one.opcode == "dot"]


def num(some: HloGraph, opcode: str) -> int:
    return sum(one.opcode == opcode for one in some.instructions.values())


def before_backward(some: HloGraph, layer: int) -> list[str]:
    """The products that the gradient of a block's output is computed from."""
    if layer + 1 in LAYERS:
        label = f"layers.{layer + 1}.attention.qkv.backward.product"
    else:
        label = "head.dx_0_0"
    return [one.name for one in dots(some, label)]


def early(some: HloGraph) -> set[str]:
    """Of `full`: products that run again in backward and do not wait for it."""
    found = set()
    for layer in LAYERS:
        gradient = before_backward(some, layer)
        assert gradient
        for name in AGAIN:
            products = dots(some, f"layers.{layer}.{name}.product")
            late = [all(some.before(one, product.name) for one in gradient) for product in products]
            assert len(products) == 2
            if sum(late) != 1:
                found.add(f"layers.{layer}.{name}")
    return found


def late_in_core(some: HloGraph, layer: int) -> int:
    """Products between the gradient of o's output and that of an attention core's input."""
    (first,) = dots(some, f"layers.{layer}.mlp.gate_up.backward.product")
    (last,) = dots(some, f"layers.{layer}.attention.qkv.backward.product")
    inner = (one.name for one in dots(some, ""))
    return sum(some.before(first.name, one) and some.before(one, last.name) for one in inner)


@pytest.mark.parametrize("tp", [1, 2])
def test_full_runs_all_but_the_last_product_again_once_backward_is_there(tp: int) -> None:
    plain, again = graph(tp, "none"), graph(tp, "full")
    in_core = 2  # scores, and the weighted sum of the values
    assert num(again, "dot") - num(plain, "dot") == len(LAYERS) * (len(AGAIN) + in_core)
    assert early(again) == set()
    for layer in LAYERS:
        assert len(dots(again, f"layers.{layer}.mlp.down.product")) == 1


@pytest.mark.parametrize("mode", ["off", "chunk"])
def test_full_gathers_again_and_does_not_run_the_last_reduce_scatter(mode: str) -> None:
    plain, again = graph(2, "none", mode), graph(2, "full", mode)
    chunks = 2 if mode == "chunk" else 1
    more = {one: num(again, one) - num(plain, one) for one in ("all-gather", "reduce-scatter")}
    # qkv and gate_up gather, o scatters; down's reduce-scatter is nobody's.
    assert more == {
        "all-gather": 2 * chunks * len(LAYERS),
        "reduce-scatter": chunks * len(LAYERS),
    }


@pytest.mark.parametrize("tp", [1, 2])
def test_selective_runs_the_attention_core_again_and_no_collective(tp: int) -> None:
    plain, again = graph(tp, "none"), graph(tp, "selective")
    for opcode in ("all-gather", "reduce-scatter"):
        assert num(again, opcode) == num(plain, opcode)
    assert num(again, "dot") - num(plain, "dot") == 2 * len(LAYERS)
    for layer in LAYERS:
        # Without recomputation: dv, dp, dq, dk. With: the two of the forward, and scores from them.
        assert late_in_core(plain, layer) == 4
        assert late_in_core(again, layer) == 7


def test_without_waiting_all_of_it_is_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(XlaTrace, "tie", lambda self, x, after: x.clone())
    assert early(graph(1, "full")) == {
        f"layers.{layer}.{name}" for layer in LAYERS for name in AGAIN
    }
    assert [late_in_core(graph(1, "selective"), layer) for layer in LAYERS] == [4, 4]


@pytest.mark.parametrize("recomputed", ["selective", "full"])
def test_nothing_holds_the_activations_after_backward(recomputed: Recompute) -> None:
    """What is still referred to when the step runs is a result of its graph, and takes memory."""
    step = traced(1, "off", recomputed)
    seen: list[weakref.ref[Tensor]] = []
    watched = [one for one in step.model.modules() if isinstance(one, Block | AttentionCore)]
    for module in watched:
        module.register_forward_pre_hook(lambda _, args: seen.append(weakref.ref(args[0])))
    left = step.record()
    gc.collect()
    assert len(seen) >= len(watched)
    assert all(one() is None for one in seen)
    hlo_text(left)

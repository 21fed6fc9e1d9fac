"""One transformer layer on the virtual clock: the parallel model itself, on meta tensors.

    parts = layer_timeline(shape, sequence_length, batch_size, tp, modes, dtype, figures, "none")
    parts["forward"]             # [Part("attention_norm", None, ...), Part("qkv", "ring", ...)]
    panel("forward", parts["forward"])      # all of them, one after another, for `overlap/draw.py`

Parallel linears run as their schedules; what lies between them computes alone and is costed by
running it, forward and backward, under a CostCounter. A backward with a head start is timed with
the two parts in front of it: what of it they hide lies before the beginning of its own part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ndtrain.models.qwen3.model import Block
from ndtrain.models.qwen3.shape import Shape
from ndtrain.ops.cost import Cost, CostCounter
from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.draw import Panel
from ndtrain.overlap.early import BETWEEN, joined
from ndtrain.overlap.modes import BEHIND, PASSES, Modes, Pass
from ndtrain.overlap.node_cost import Figures, NodeCost, Phase, compute_seconds, node_costs
from ndtrain.overlap.operations import Same
from ndtrain.overlap.schedule import Schedule
from ndtrain.overlap.timeline import Timeline, TimelineSpan, simulate_costs
from ndtrain.parallel.layer_schedules import meta_model
from ndtrain.parallel.linear import ColumnParallelLinear, RowParallelLinear
from ndtrain.parallel.recompute import Recompute
from ndtrain.runtime.runtime import still


@dataclass(frozen=True)
class Part:
    name: str
    mode: Mode | None  # of a parallel linear; None computes locally
    timeline: Timeline


def layer_timeline(
    shape: Shape,
    sequence_length: int,
    batch_size: int,
    tp: int,
    modes: Modes,
    dtype: torch.dtype,
    figures: Figures,
    recompute: Recompute,
) -> dict[Pass, list[Part]]:
    """The parts of a layer's forward and backward on rank 0, in the order in which they run.

    batch_size: rows of a micro-batch. recompute: what backward computes again first.
    """
    runtime = still(0, tp, 1, shape.num_kv_heads, "meta")
    model = meta_model(shape, runtime, modes, dtype)
    with torch.device("meta"):
        x_SBH = torch.empty(sequence_length // tp, batch_size, shape.hidden_size, dtype=dtype)
        tokens_BS = torch.empty(batch_size, sequence_length, dtype=torch.int64)
    walk = _Walk(tp, modes, figures, recompute)
    block = model.layers[0]
    assert isinstance(block, Block)
    walk.block(block, x_SBH, model.rotary(tokens_BS, None))
    return walk.parts


def panel(label: str, parts: Sequence[Part]) -> Panel:
    """The parts one after another; spans are named after their part."""
    timeline, bars = Timeline(()), []
    for part in parts:
        start_s = timeline.makespan_s
        timeline = timeline.then(_named(part))
        bars.append((part.name, start_s, timeline.makespan_s))
    return Panel(label, timeline, bars)


def _named(part: Part) -> Timeline:
    spans = part.timeline.spans
    if part.mode is None:
        return part.timeline
    return Timeline(tuple(span._replace(name=f"{part.name}.{span.name}") for span in spans))


@dataclass(frozen=True)
class _Costed:
    """A backward schedule and what its nodes cost."""

    schedule: Schedule
    costs: dict[str, NodeCost]
    serial: bool

    def named(self) -> dict[str, NodeCost]:
        """By SCHEDULE.NODE, as in `early.joined`."""
        return {f"{self.schedule.name}.{name}": cost for name, cost in self.costs.items()}


class _Walk:
    """Runs a block piece by piece and notes what each costs in both passes."""

    def __init__(self, tp: int, modes: Modes, figures: Figures, recompute: Recompute) -> None:
        self._tp, self._modes, self._figures = tp, modes, figures
        self._recompute = recompute
        self._backwards: dict[str, _Costed] = {}
        self.parts: dict[Pass, list[Part]] = {when: [] for when in PASSES}

    def block(self, block: Block, x_SBH: Tensor, rotary: tuple[Tensor, Tensor]) -> None:
        attention, mlp = block.attention, block.mlp
        normed = self._local("attention_norm", block.attention_norm, x_SBH)
        qkv = self._linear("qkv", attention.qkv, normed)
        heads = self._local("core", lambda y: attention.core(y, rotary, None), qkv)
        x_SBH = self._local("residual", torch.add, x_SBH, self._linear("o", attention.o, heads))
        self._again("core")
        normed = self._local("mlp_norm", block.mlp_norm, x_SBH)
        gate_up = self._linear("gate_up", mlp.gate_up, normed)
        activated = self._local("activation", mlp.activation, gate_up)
        again = list(self.parts["forward"])  # up to the last tensor that backward needs
        self._local("residual", torch.add, x_SBH, self._linear("down", mlp.down, activated))
        self._again("activation")
        if self._recompute == "full":
            backward = self.parts["backward"]
            backward[:0] = [replace(part, name=f"{part.name} again") for part in again]
        for column in self._modes.early:
            self._head_start(column)

    def _linear(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(module, (ColumnParallelLinear, RowParallelLinear))
        weight, plan = module.weight, module.plan
        y = module(x)
        runs = {"forward": (plan.forward, (x, weight)), "backward": (plan.backward, (y, x, weight))}
        for when in PASSES:
            schedule, inputs = runs[when]
            costs = node_costs(schedule, inputs, self._tp, self._figures)
            timeline = simulate_costs(schedule, costs, self._figures, plan.serial)
            self._note(when, Part(name, self._modes.of(name, when), timeline))
        self._backwards[name] = _Costed(plan.backward, costs, plan.serial)
        return y.detach()

    def _local(self, name: str, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        inputs = tuple(x.detach().requires_grad_() for x in inputs)
        with CostCounter() as forward:
            y = function(*inputs)
        wanted = [*inputs]
        if isinstance(function, nn.Module):
            wanted += function.parameters()
        with CostCounter() as backward:
            torch.autograd.grad(y, wanted, torch.empty_like(y), allow_unused=True)
        self._note("forward", self._compute(name, forward.total))
        self._note("backward", self._compute(name, backward.total))
        return y.detach()

    def _again(self, name: str) -> None:
        """What is computed again before the row-parallel product behind it needs its input."""
        if self._recompute == "selective":
            (part,) = (part for part in self.parts["forward"] if part.name == name)
            backward = self.parts["backward"]
            behind = next(place for place, other in enumerate(backward) if other.mode is not None)
            backward.insert(behind, replace(part, name=f"{name} again"))

    def _head_start(self, column: str) -> None:
        """Times the backwards of row and column, and what lies between them, as one schedule."""
        backward, row = self.parts["backward"], BEHIND[column]
        first, second = self._backwards[row], self._backwards[column]
        begin = next(place for place, part in enumerate(backward) if part.name == row)
        three = backward[begin : begin + 3]
        assert three[2].name == column
        between = NodeCost((Phase("compute", three[1].timeline.compute_s),))
        whole = joined(first.schedule, second.schedule, Same())
        costs = first.named() | second.named() | {BETWEEN: between}
        timeline = simulate_costs(whole, costs, self._figures, first.serial)
        (span,) = (span for span in timeline.spans if span.name == BETWEEN)
        alone = span._replace(name=three[1].name, start_s=0.0, stop_s=span.stop_s - span.start_s)
        backward[begin : begin + 3] = [
            replace(three[0], timeline=_cut(timeline, f"{first.schedule.name}.", 0.0)),
            replace(three[1], timeline=Timeline((alone,))),
            replace(three[2], timeline=_cut(timeline, f"{second.schedule.name}.", span.stop_s)),
        ]

    def _compute(self, name: str, cost: Cost) -> Part:
        seconds = compute_seconds(cost, self._figures) + self._figures.node_overhead_s
        span = TimelineSpan(name, "compute", 0.0, seconds, seconds)
        return Part(name, None, Timeline((span,)))

    def _note(self, when: Pass, part: Part) -> None:
        """Backward goes the other way."""
        parts = self.parts[when]
        parts.insert(len(parts) if when == "forward" else 0, part)


def _cut(whole: Timeline, prefix: str, begin_s: float) -> Timeline:
    """The spans with this prefix, without it, on a clock that begins at `begin_s`."""
    return Timeline(
        tuple(
            span._replace(
                name=span.name.removeprefix(prefix),
                start_s=span.start_s - begin_s,
                stop_s=span.stop_s - begin_s,
            )
            for span in whole.spans
            if span.name.startswith(prefix)
        )
    )

"""Linear layers of tensor parallelism with a residual stream sharded along the sequence.

Column-parallel: all-gather the tokens, multiply by own rows of the weight. Row-parallel: multiply
by own columns, reduce-scatter the tokens. S is the whole sequence, t the tensor ranks:

    x [S/t, B, in]  --gather-->  [S, B, in]  @ W[out/t, in]^T  ->  [S, B, out/t]
    x [S, B, in/t]  @ W[out, in/t]^T  ->  [S, B, out]  --reduce-scatter-->  [S/t, B, out]

Each is a schedule (`overlap/collective_matmul.py`), forward and backward. The gathered tokens are
not kept for backward, they are gathered again (Korthikanti et al. 2022, arXiv:2205.05198):
activation memory stays 1/t. That gather has a head start (`overlap/early.py`): it begins during the
backward of the row-parallel product that stands behind in the layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, autograd, nn

from ndtrain.overlap.candidates import COLUMN, ROW, Builder
from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.execute import Run, execute
from ndtrain.overlap.modes import Modes, Pass
from ndtrain.overlap.schedule import Schedule
from ndtrain.parallel.head_start import HeadStart, begin, column_before
from ndtrain.parallel.kept import Kept
from ndtrain.parallel.lone_linear import lone_product
from ndtrain.runtime.runtime import Runtime


@dataclass(frozen=True)
class Plan:
    """The two schedules of a layer and what runs them.

    early: of a column-parallel product, whether its backward takes a head start; of a row-parallel
    one, whether it gives one.
    """

    forward: Schedule
    backward: Schedule
    runtime: Runtime
    serial: bool
    early: bool = False

    @property
    def name(self) -> str:
        return self.forward.name

    @property
    def is_lone(self) -> bool:
        """One tensor rank: there is nothing to schedule."""
        return self.runtime.mesh.tensor.size == 1

    def run(self, schedule: Schedule, *tensors: Tensor) -> tuple[Tensor, ...]:
        return execute(schedule, tensors, self.runtime, self.runtime.mesh.tensor, self.serial)

    def run_of_backward(self) -> Run:
        return Run(self.backward, self.runtime, self.runtime.mesh.tensor, self.serial)


class _Planned(autograd.Function):
    """forward: (x, weight) -> y; backward: (dy, x, weight) -> dx, dweight."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, plan: Plan) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.plan = plan
        ctx.head_start = HeadStart() if plan.early else None
        return plan.run(plan.forward, x, weight)[0]

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        plan, start = ctx.plan, ctx.head_start
        if start is not None and start.is_taken:
            dx, dweight = start.finish(dy.contiguous())
        else:
            dx, dweight = plan.run(plan.backward, dy.contiguous(), *ctx.saved_tensors)
        return dx, dweight, None


class _Keep(autograd.Function):
    """Keeps x for the backward of the product that follows."""

    @staticmethod
    def forward(ctx, x: Tensor, kept: Kept) -> Tensor:  # type: ignore[no-untyped-def]
        kept.hold(ctx, x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, dx: Tensor):  # type: ignore[no-untyped-def]
        return dx, None


class _PlannedAfterKeep(autograd.Function):
    """`_Planned` on an x that `_Keep` holds."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, plan: Plan, kept: Kept) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.weight, ctx.plan, ctx.kept = weight, plan, kept
        return plan.run(plan.forward, x, weight)[0]

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        inputs = dy.contiguous(), ctx.kept.read(), ctx.weight
        before = column_before(ctx) if ctx.plan.early else None
        if before is None:
            dx, dweight = ctx.plan.run(ctx.plan.backward, *inputs)
        else:
            dx, dweight = ctx.plan.run_of_backward().finish(inputs, partial(begin, before))
        return dx, dweight, None, None


def plan_of(
    builders: Mapping[Pass, Builder],
    name: str,
    runtime: Runtime,
    forward: Mode,
    backward: Mode,
    serial: bool = False,
    early: bool = False,
) -> Plan:
    """builders: COLUMN or ROW. early: as in `Plan`; a traced graph leaves every gather free."""
    place = runtime.place(runtime.mesh.tensor)
    return Plan(
        builders["forward"](name, place, forward),
        builders["backward"](f"{name}.backward", place, backward),
        runtime,
        serial,
        early and runtime.trace is None,
    )


def column_product(x: Tensor, weight: Tensor, plan: Plan) -> Tensor:
    """x [S/t, B, in], weight [out/t, in] -> [S, B, out/t]; differentiable."""
    if plan.is_lone:
        return lone_product(x, weight, plan.runtime, plan.name)
    return _Planned.apply(x, weight, plan)


def row_product(x: Tensor, weight: Tensor, plan: Plan) -> Tensor:
    """x [S, B, in/t], weight [out, in/t] -> [S/t, B, out]; differentiable."""
    if plan.is_lone:
        return lone_product(x, weight, plan.runtime, plan.name)
    kept = Kept()
    return _PlannedAfterKeep.apply(_Keep.apply(x, kept), weight, plan, kept)


class ColumnParallelLinear(nn.Module):
    """x [S/t, B, in] -> [S, B, out/t]; holds the rows of the weight that `weight` has."""

    def __init__(self, weight: nn.Parameter, runtime: Runtime, name: str, modes: Modes) -> None:
        super().__init__()
        self.weight = weight
        self.plan = plan_of(COLUMN, name, runtime, *_modes_of(name, modes))

    def forward(self, x: Tensor) -> Tensor:
        return column_product(x, self.weight, self.plan)


class RowParallelLinear(nn.Module):
    """x [S, B, in/t] -> [S/t, B, out]; holds the columns of the weight that `weight` has."""

    def __init__(self, weight: nn.Parameter, runtime: Runtime, name: str, modes: Modes) -> None:
        super().__init__()
        self.weight = weight
        self.plan = plan_of(ROW, name, runtime, *_modes_of(name, modes))

    def forward(self, x: Tensor) -> Tensor:
        return row_product(x, self.weight, self.plan)


def _modes_of(name: str, modes: Modes) -> tuple[Mode, Mode, bool, bool]:
    """Forward's form, backward's, whether both run one node at a time, and `Plan.early`."""
    operation = name.rpartition(".")[2]
    forward, backward = modes.of(operation, "forward"), modes.of(operation, "backward")
    return forward, backward, modes.is_serial(operation), modes.is_early(operation)

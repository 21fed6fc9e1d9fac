"""The schedules of one layer of a model, as its parallel linears hold them: no process, no memory.

linears = layer_linears(shape, tp=8, rank=3, modes=Modes.all("ring"), dtype=torch.bfloat16)
linears["qkv"].plan.forward                       # the Schedule of rank 3
layer_problems(shape, 4096, 1, 8, "ring", dtype)  # {("qkv", "forward"): [], ...}
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ndtrain.models.qwen3.model import Block, Qwen3
from ndtrain.models.qwen3.shape import Shape
from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.early import Between, joined
from ndtrain.overlap.modes import BEHIND, PASSES, Modes, Pass
from ndtrain.overlap.schedule import Schedule
from ndtrain.overlap.verify import verify
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.linear import ColumnParallelLinear, RowParallelLinear
from ndtrain.runtime.runtime import Runtime, still

ParallelLinear = ColumnParallelLinear | RowParallelLinear


def meta_model(shape: Shape, runtime: Runtime, modes: Modes, dtype: torch.dtype) -> Qwen3:
    """One layer of the parallel model as the runtime's rank holds it, on meta tensors."""
    with torch.device("meta"):
        model = Qwen3(replace(shape, num_layers=1))
    parallelize(model, runtime, modes)
    return model.to(dtype)


def layer_linears(
    shape: Shape, tp: int, rank: int, modes: Modes, dtype: torch.dtype
) -> dict[str, ParallelLinear]:
    """By operation, in the order of forward."""
    runtime = still(rank, tp, 1, shape.num_kv_heads, "meta")
    block = meta_model(shape, runtime, modes, dtype).layers[0]
    assert isinstance(block, Block)
    return linears_of(block)


def linears_of(block: Block) -> dict[str, ParallelLinear]:
    """Of a parallel block, by operation, in the order of forward."""
    linears = {
        "qkv": block.attention.qkv,
        "o": block.attention.o,
        "gate_up": block.mlp.gate_up,
        "down": block.mlp.down,
    }
    for linear in linears.values():
        assert isinstance(linear, ParallelLinear)
    return linears  # type: ignore[return-value]


def layer_problems(
    shape: Shape, sequence_length: int, batch_size: int, tp: int, mode: Mode, dtype: torch.dtype
) -> dict[tuple[str, Pass], list[str]]:
    """What is wrong with each schedule of a layer: of the graphs, on all ranks, and of the shapes.

    batch_size: rows of a micro-batch.
    """
    modes = Modes.all(mode)
    ranks = [layer_linears(shape, tp, rank, modes, dtype) for rank in range(tp)]
    problems: dict[tuple[str, Pass], list[str]] = {}
    for name, linear in ranks[0].items():
        forward = verify(lambda rank, name=name: ranks[rank][name].plan.forward, tp)  # type: ignore[misc]
        backward = verify(lambda rank, name=name: ranks[rank][name].plan.backward, tp)  # type: ignore[misc]
        problems[name, "forward"] = forward
        problems[name, "backward"] = backward
        if not forward and not backward:  # they can be run
            found = _wrong_shapes(linear, sequence_length, batch_size, tp)
            for when in PASSES:
                problems[name, when] += found[when]
    for column in BEHIND:
        if not problems[column, "backward"]:
            problems[column, "backward"] += _head_start_problems(ranks, column)
    return problems


def _head_start_problems(ranks: Sequence[dict[str, ParallelLinear]], column: str) -> list[str]:
    """Of a column's backward that begins in the one behind it: of both as one schedule."""
    if not ranks[0][column].plan.early:
        return []

    def schedule(rank: int) -> Schedule:
        first, second = ranks[rank][BEHIND[column]], ranks[rank][column]
        between = Between(second.weight.shape[0])
        return joined(first.plan.backward, second.plan.backward, between)

    return verify(schedule, len(ranks))


def _wrong_shapes(
    linear: ParallelLinear, sequence_length: int, batch_size: int, tp: int
) -> dict[Pass, list[str]]:
    """Runs both passes on meta tensors; rows that a chunk leaves out show in the shapes."""
    is_column = isinstance(linear, ColumnParallelLinear)
    own, full = sequence_length // tp, sequence_length
    weight, plan = linear.weight, linear.plan
    out_features, in_features = weight.shape

    def tensor(num_rows: int, width: int) -> torch.Tensor:
        return weight.new_empty((num_rows, batch_size, width))

    x = tensor(own if is_column else full, in_features)
    dy = tensor(full if is_column else own, out_features)
    runs = {
        "forward": (plan.forward, (x, weight), (dy,)),
        "backward": (plan.backward, (dy, x, weight), (x, weight)),
    }
    found: dict[Pass, list[str]] = {}
    for when in PASSES:
        schedule, inputs, expected = runs[when]
        try:
            with torch.no_grad():
                outputs = plan.run(schedule, *inputs)
        except RuntimeError as error:  # torch refuses the shapes
            found[when] = [f"every rank: {error}"]
            continue
        found[when] = [
            f"every rank: `{name}` has the shape {list(y.shape)} instead of {list(like.shape)}"
            for name, y, like in zip(schedule.outputs, outputs, expected, strict=True)
            if y.shape != like.shape
        ]
    return found

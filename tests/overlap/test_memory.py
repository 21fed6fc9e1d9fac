"""What a schedule holds: counted by hand, and never less than what an execution really keeps."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ndtrain.overlap.execute import Run, execute
from ndtrain.overlap.memory import extra_bytes, held_bytes
from ndtrain.overlap.operations import Linear
from ndtrain.overlap.schedule import Schedule, ScheduleBuilder
from tests.overlap.cases import (
    ALL_SCHEDULES,
    BATCH,
    IN,
    OUT,
    SEQUENCE,
    build,
    inputs,
    meta_inputs,
)
from tests.overlap.lone import lone

SIZE, RANK = 4, 1
FP32 = 4
WIDE = SEQUENCE * BATCH * OUT * FP32  # y of all rows
NARROW = SEQUENCE * BATCH * IN * FP32  # x of all rows


@pytest.fixture
def old_objects_aside() -> Iterator[None]:
    """The collector walks what a test makes, not the millions of objects that were there before."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def held(operation: str, mode: str) -> int:
    schedule = build(operation, mode, SIZE, RANK)  # type: ignore[arg-type]
    return held_bytes(schedule, meta_inputs(operation, SIZE, torch.float32), SIZE)


@pytest.mark.parametrize(
    ("operation", "mode", "expected"),
    [
        ("gather_matmul", "off", NARROW + WIDE),
        # Three hops of a shard beside the joined product, which is made in place.
        ("gather_matmul", "ring", NARROW * 3 // 4 + WIDE),
        ("matmul_scatter", "off", WIDE + WIDE // 4),
        # The sum that is sent, the one that comes, the part that is added, and their sum.
        ("matmul_scatter", "ring", 4 * WIDE // 4),
        ("row_backward", "off", WIDE + NARROW + OUT * IN * FP32),
    ],
)
def test_bytes_counted_by_hand(operation: str, mode: str, expected: int) -> None:
    assert held(operation, mode) == expected


def test_a_schedule_holds_no_more_than_itself() -> None:
    for operation, mode in ALL_SCHEDULES:
        schedule = build(operation, mode, SIZE, RANK)
        tensors = meta_inputs(operation, SIZE, torch.float32)
        assert extra_bytes(schedule, schedule, tensors, SIZE) == 0


def chain(length: int) -> Schedule:
    graph = ScheduleBuilder("chain", ("x", "weight"))
    name = "x"
    for index in range(length):
        name = graph.compute(f"product_{index}", Linear(), (name, "weight"))
    return graph.finish((name,))


@pytest.mark.usefixtures("old_objects_aside")
def test_what_nobody_reads_any_more_is_freed() -> None:
    x, weight = torch.ones(8, 1, 16), torch.ones(16, 16)
    runtime = lone(1, 0)
    made: list[weakref.ref] = []
    compute = Run._compute

    def watched(*arguments: object) -> Tensor:
        gc.collect()
        alive = [ref for ref in made if ref() is not None]
        assert len(alive) <= 1  # the value that this node reads
        value = compute(*arguments)  # type: ignore[arg-type]
        made.append(weakref.ref(value))
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_compute", watched)
        execute(chain(6), (x, weight), runtime, runtime.mesh.tensor)
    assert len(made) == 6
    of_chain = held_bytes(chain(6), (x.to("meta"), weight.to("meta")), 1)
    assert of_chain == 2 * x.nbytes


@pytest.mark.usefixtures("old_objects_aside")
@pytest.mark.parametrize(("operation", "mode"), ALL_SCHEDULES)
def test_no_execution_holds_more_tensors_than_were_counted(operation, mode) -> None:
    """Serially, at the turn of each compute node: the storages of all values that are alive."""
    schedule = build(operation, mode, SIZE, RANK)
    tensors = inputs(operation, SIZE, RANK, torch.float32)
    known = {x.untyped_storage().data_ptr() for x in tensors}
    most = 0

    def count(_: str) -> None:
        nonlocal most
        gc.collect()
        storages = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
            for x in gc.get_objects()
            if type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32
        }
        most = max(most, sum(n for pointer, n in storages.items() if pointer not in before))

    runtime = lone(SIZE, RANK, before_compute=count)
    before = {x.untyped_storage().data_ptr() for x in gc.get_objects() if type(x) is Tensor} | known
    execute(schedule, tensors, runtime, runtime.mesh.tensor, serial=True)
    assert most <= held(operation, mode)

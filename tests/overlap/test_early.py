"""A run in two parts is the schedule that both parts make together."""

import pytest
import torch
from torch import Tensor

from ndtrain.overlap.collective_matmul import MODES, Mode, column_backward, row_backward
from ndtrain.overlap.early import AHEAD, Between, joined, last_issued, leading
from ndtrain.overlap.execute import Run, execute
from ndtrain.overlap.operations import Same
from ndtrain.overlap.order import Order
from ndtrain.overlap.schedule import Compute, Schedule
from ndtrain.runtime.place import Place
from ndtrain.runtime.runtime import Runtime
from tests.overlap.lone import lone

SIZES, RANK = (2, 4), 1
OVERLAPPING = [mode for mode in MODES if mode != "off"]
S, B, WIDTH, HIDDEN = 16, 2, 6, 10


def two(mode: Mode, size: int) -> tuple[Schedule, Schedule]:
    place = Place(RANK, size)
    return row_backward("o", place, mode), column_backward("qkv", place, mode)


def tensors(size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs of the row's backward, and of the column's without its gradient."""
    shapes = [
        [(S // size, B, HIDDEN), (S, B, WIDTH), (HIDDEN, WIDTH)],
        [(S // size, B, HIDDEN), (WIDTH, HIDDEN)],
    ]
    generator = torch.Generator().manual_seed(0)
    row, column = ([torch.randn(s, generator=generator) for s in some] for some in shapes)
    return row, column


def in_two_parts(mode: Mode, size: int, runtime: Runtime, serial: bool) -> list[Tensor]:
    (row, column), (row_inputs, (x, weight)) = two(mode, size), tensors(size)
    axis = runtime.mesh.tensor
    later = Run(column, runtime, axis, serial)
    first = Run(row, runtime, axis, serial)
    dy, row_dweight = first.finish(row_inputs, lambda: later.begin({AHEAD: x}))
    return [*later.finish((dy, x, weight)), row_dweight]


def told(size: int) -> tuple[Runtime, list[str]]:
    names: list[str] = []
    return lone(size, RANK, names.append, names.append), names


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", OVERLAPPING)
def test_two_parts_do_what_the_joined_schedule_says_in_its_order(mode: Mode, size: int) -> None:
    whole = joined(*two(mode, size), Same())
    row, column = tensors(size)
    runtime, as_one = told(size)
    expected = execute(whole, [*row, *column], runtime, runtime.mesh.tensor, serial=True)
    runtime, as_two = told(size)
    found = in_two_parts(mode, size, runtime, serial=True)
    prefix = f"{whole.name}."
    assert as_two == [name.removeprefix(prefix) for name in as_one if name != f"{prefix}between"]
    for y, other in zip(found, expected, strict=True):
        assert torch.equal(y, other)
    runtime, _ = told(size)
    for y, other in zip(in_two_parts(mode, size, runtime, serial=False), expected, strict=True):
        assert torch.equal(y, other)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", OVERLAPPING)
def test_the_columns_gather_may_run_beside_what_lies_between(mode: Mode, size: int) -> None:
    """And beside the row's weight gradient; one after the other neither may."""
    row, column = two(mode, size)
    pairs = Order(joined(row, column, Between(WIDTH))).concurrent()
    moved = [f"qkv.{node.name}" for node in leading(column, {AHEAD}) if not is_compute(node)]
    assert moved
    for name in moved:
        assert {(name, "between"), (name, "o.dweight")} <= {*pairs}
    assert leading(column, {"dy"}) == ()


def test_a_blocking_backward_has_nothing_to_begin_with() -> None:
    _, column = two("off", 2)
    assert leading(column, {AHEAD}) == ()


@pytest.mark.parametrize("mode", MODES)
def test_behind_the_last_communication_of_a_row_there_is_compute(mode: Mode) -> None:
    row, _ = two(mode, 4)
    behind = row.nodes[last_issued(row) + 1 :]
    assert "dweight" in [node.name for node in behind]
    assert all(is_compute(node) for node in behind)


def is_compute(node: object) -> bool:
    return isinstance(node, Compute)

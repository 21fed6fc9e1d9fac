"""Which stream a communication goes to: the axes share none, and over one rank nothing moves."""

from dataclasses import replace

import pytest
import torch

from ndtrain.overlap.execute import execute
from ndtrain.runtime.mesh import LANES, Mesh
from ndtrain.runtime.runtime import start_cpu
from ndtrain.runtime.streams import Pending, Work
from tests.overlap.cases import EVERY_SCHEDULE, build, inputs
from tests.overlap.lone import lone
from tests.rank_pool import ranks


def test_a_hop_does_not_wait_behind_a_bucket() -> None:
    runtime = replace(lone(2, 0), mesh=Mesh.place(0, tp=2, dp=2))
    axes = (runtime.mesh.tensor, runtime.mesh.data)
    streams = [runtime.stream_of(stream, axis) for stream in ("gather", "scatter") for axis in axes]
    assert len({id(stream) for stream in streams}) == 4
    serial = [runtime.stream_of("gather", axis, serial=True) for axis in axes]
    assert all(stream in runtime.serial_streams.values() for stream in serial)


def groups_of_lanes(rank: int) -> list[set[str]]:
    mesh = start_cpu(2, 2, num_kv_heads=2).mesh
    return [set(axis.groups) for axis in (mesh.tensor, mesh.data)]


def test_each_axis_has_groups_for_its_own_streams_and_the_main_thread() -> None:
    for tensor, data in ranks(4).run(groups_of_lanes):
        assert tensor & data == {"main"}
        assert tensor | data == set(LANES)


class Busy:
    def submit(self, name: str, work: Work) -> Pending:
        raise AssertionError(f"{name} waits behind another axis's transfers")


@pytest.mark.parametrize(("operation", "mode"), EVERY_SCHEDULE)
def test_on_an_axis_of_one_rank_nothing_waits_for_a_stream(operation, mode) -> None:
    runtime = lone(1, 0)
    runtime = replace(runtime, streams=dict.fromkeys(runtime.streams, Busy()))
    tensors = inputs(operation, 1, 0, torch.float64)
    execute(build(operation, mode, 1, 0), tensors, runtime, runtime.mesh.tensor)

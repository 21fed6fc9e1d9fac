"""The grid of ranks: tensor fastest, and the same with and without processes."""

import pytest
import torch
import torch.distributed as dist

from ndtrain.runtime.mesh import Mesh, axis_lines
from tests.rank_pool import ranks

LAYOUTS = [(4, 1, 2), (2, 2, 1), (1, 4, 1), (4, 1, 1)]


def lines(mesh: Mesh) -> dict[str, tuple[tuple[int, ...], int]]:
    axes = (mesh.world, mesh.data, mesh.tensor, mesh.key_value)
    return {axis.name: (axis.ranks, axis.rank) for axis in axes}


def created(rank: int, tp: int, dp: int, replicas: int) -> dict:
    return lines(Mesh.create(tp, dp, replicas))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_created_equals_placed(layout):
    results = ranks(4).run(created, *layout)
    assert results == [lines(Mesh.place(rank, *layout)) for rank in range(4)]


def test_tensor_ranks_are_neighbours():
    mesh = Mesh.place(5, tp=4, dp=2, num_kv_replicas=2)
    assert mesh.tensor.ranks == (4, 5, 6, 7)
    assert mesh.data.ranks == (1, 5)
    assert mesh.key_value.ranks == (4, 5)
    assert (mesh.tensor.rank, mesh.data.rank, mesh.key_value.rank) == (1, 1, 1)


@pytest.mark.parametrize(("tp", "dp"), [(8, 4), (2, 16), (32, 2)])
def test_the_grid_is_the_one_of_neuronx_distributed(tp: int, dp: int) -> None:
    """Its parallel_state numbers ranks as [pipeline, data, context, tensor], tensor fastest."""
    theirs = torch.arange(tp * dp).reshape(1, dp, 1, tp)
    lines = axis_lines(tp, dp)
    assert lines["tensor"] == [tuple(line) for line in theirs.reshape(dp, tp).tolist()]
    assert lines["data"] == [tuple(line) for line in theirs.reshape(dp, tp).T.tolist()]


def beside_others(rank: int) -> tuple[list[float], set[str]]:
    """Ours and another library's groups of the same ranks, taking turns."""
    theirs = [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]
    mesh = Mesh.create(2, 2, backend="gloo")
    value = torch.tensor([1.0 + rank])
    for group in (theirs, mesh.tensor.groups["main"], theirs, mesh.data.groups["data_gather"]):
        dist.all_reduce(value, group=group)
    axes = (mesh.world, mesh.data, mesh.tensor)
    return value.tolist(), {dist.get_backend(g) for axis in axes for g in axis.groups.values()}


def test_groups_of_another_library_stay_its_own() -> None:
    # Twice doubled in a pair after its sum, then the pairs are added: 4 (1 + 2) + 4 (3 + 4).
    assert ranks(4).run(beside_others) == [([40.0], {"gloo"})] * 4

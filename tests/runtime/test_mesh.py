"""The grid of ranks: tensor fastest, and the same with and without processes."""

import pytest

from ndtrain.runtime.mesh import Mesh
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

"""The grid of ranks: data x tensor, tensor fastest, so that a tensor group stays inside a node.

mesh = Mesh.create(tp=2, dp=2)          # after dist.init_process_group, on every rank
mesh.tensor.size, mesh.tensor.rank      # my place on an axis
mesh.replicas(2)                        # tensor ranks that hold the same key/value head
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch.distributed as dist

# Who calls collectives: the main thread, and for each axis a background stream of gathers and one
# of scatters, with process groups of its own, so that their calls cannot mix. The axes share no
# stream, or a layer's hop would wait behind a whole bucket.
LANES = ("main", "gather", "scatter", "data_gather", "data_scatter")


@dataclass(frozen=True)
class Axis:
    """One line of the grid through this rank. An axis of size 1 has no groups: nothing moves."""

    name: str
    ranks: tuple[int, ...]  # global ranks in order
    rank: int  # own index in `ranks`
    groups: Mapping[str, dist.ProcessGroup] = field(default_factory=dict)  # by lane

    @property
    def size(self) -> int:
        return len(self.ranks)

    def lane(self, stream: str) -> str:
        """Of LANES: who moves what a schedule puts on `stream`, gather or scatter."""
        return f"data_{stream}" if self.name == "data" else stream


@dataclass(frozen=True)
class Mesh:
    world: Axis
    data: Axis
    tensor: Axis
    key_value: Axis  # tensor ranks that hold copies of the same key/value heads

    @classmethod
    def create(
        cls, tp: int, dp: int, num_kv_replicas: int = 1, backend: str | None = None
    ) -> "Mesh":
        """Collective: every rank of the world calls it with the same arguments.

        backend: of the groups; None: that of the world's group.
        """
        rank = dist.get_rank()
        assert tp * dp == dist.get_world_size()
        lines = axis_lines(tp, dp, num_kv_replicas)
        return cls(
            world=_axis("world", lines["world"], rank, LANES[:1], backend),
            data=_axis("data", lines["data"], rank, (LANES[0], *LANES[3:]), backend),
            tensor=_axis("tensor", lines["tensor"], rank, LANES[:3], backend),
            key_value=_axis("key_value", lines["key_value"], rank, LANES[:1], backend),
        )

    @classmethod
    def place(cls, rank: int, tp: int, dp: int, num_kv_replicas: int = 1) -> "Mesh":
        """The mesh as `rank` would see it, without processes: for plans on meta tensors."""
        row, column = divmod(rank, tp)
        first = column - column % num_kv_replicas
        line = tuple(range(row * tp, (row + 1) * tp))
        return cls(
            world=Axis("world", tuple(range(tp * dp)), rank),
            data=Axis("data", tuple(range(column, tp * dp, tp)), row),
            tensor=Axis("tensor", line, column),
            key_value=Axis("key_value", line[first : first + num_kv_replicas], column - first),
        )


def axis_lines(tp: int, dp: int, num_kv_replicas: int = 1) -> dict[str, list[tuple[int, ...]]]:
    """Axis -> its lines: each rank of the world is in one line of each axis."""
    assert tp % num_kv_replicas == 0
    world = tuple(range(tp * dp))
    tensor_lines = [world[row * tp : (row + 1) * tp] for row in range(dp)]
    return {
        "world": [world],
        "data": [world[column::tp] for column in range(tp)],
        "tensor": tensor_lines,
        "key_value": [
            line[first : first + num_kv_replicas]
            for line in tensor_lines
            for first in range(0, tp, num_kv_replicas)
        ],
    }


def _axis(
    name: str,
    lines: Iterable[tuple[int, ...]],
    rank: int,
    lanes: tuple[str, ...],
    backend: str | None,
) -> Axis:
    """Makes the groups of each line (a collective each) and returns the line through `rank`."""
    own = None
    for line in lines:
        wanted = lanes if len(line) > 1 else ()
        groups = {lane: dist.new_group(list(line), backend=backend) for lane in wanted}
        if rank in line:
            own = Axis(name, line, line.index(rank), groups)
    assert own is not None
    return own

"""Where the values of a schedule lie: parts that are joined are written in place.

Nodes are functional; this pass runs afterwards and saves the copy of a `Join`: the values that it
puts below each other are written into its blocks by the nodes that make them. It gives a value the
place in the first join that reads it, if its maker can write to a given place. Every other value
has memory of its own for as long as something refers to it.
"""

from torch import Tensor

from ndtrain.overlap.operations import Join, Placeable
from ndtrain.overlap.schedule import Compute, Node, Permute, Schedule
from ndtrain.runtime.streams import Pending


def placements(schedule: Schedule) -> dict[str, tuple[str, int]]:
    """Value -> (join, block) of the values that are made in place."""
    makers = {node.name: node for node in schedule.nodes}
    places: dict[str, tuple[str, int]] = {}
    for node in schedule.nodes:
        if isinstance(node, Compute) and isinstance(node.operation, Join):
            for block, name in zip(node.operation.order, node.inputs, strict=True):
                if name in makers and name not in places and _can_place(makers[name]):
                    places[name] = (node.name, block)
    return places


def _can_place(node: Node) -> bool:
    if isinstance(node, Permute):
        return True
    return isinstance(node, Compute) and isinstance(node.operation, Placeable)


class Buffers:
    """The joined tensors of one execution."""

    def __init__(self, schedule: Schedule) -> None:
        self._places = placements(schedule)
        self._num_blocks = {
            node.name: len(node.inputs) for node in schedule.nodes if isinstance(node, Compute)
        }
        self._joined: dict[str, Tensor] = {}

    def place(self, node: Compute, tensors: list[Tensor]) -> Tensor | None:
        """Memory for the node's value inside a joined tensor, or None."""
        if node.name not in self._places:
            return None
        assert isinstance(node.operation, Placeable)
        return self._block(node.name, node.operation.shape(*tensors), tensors[0])

    def place_like(self, node: Node, value: Tensor | Pending) -> Tensor | None:
        """The same for a hop, which receives what looks like that it sends."""
        if node.name not in self._places:
            return None
        if isinstance(value, Pending):  # a later hop: its predecessor has made the joined tensor
            join, _ = self._places[node.name]
            joined = self._joined[join]
            rows = joined.shape[0] // self._num_blocks[join]
            return self._block(node.name, (rows, *joined.shape[1:]), joined)
        return self._block(node.name, tuple(value.shape), value)

    def joined(self, node: Compute, tensors: list[Tensor]) -> Tensor | None:
        """The joined tensor if `node` joins values that lie in it; copies what does not."""
        if node.name not in self._joined or not isinstance(node.operation, Join):
            return None
        joined = self._joined.pop(node.name)
        rows = joined.shape[0] // len(tensors)
        for name, block, tensor in zip(node.inputs, node.operation.order, tensors, strict=True):
            if self._places.get(name) != (node.name, block):
                joined.narrow(0, block * rows, rows).copy_(tensor)
        return joined

    def _block(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        join, block = self._places[name]
        rows = shape[0]
        if join not in self._joined:
            full = (rows * self._num_blocks[join], *shape[1:])
            self._joined[join] = like.new_empty(full)
        return self._joined[join].narrow(0, block * rows, rows)

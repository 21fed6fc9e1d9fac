"""How many bytes a schedule holds beside its inputs, and how many more than another form of it.

    held_bytes(schedule, meta_inputs, size)                     # at the fullest moment
    extra_bytes(ring, blocking, meta_inputs, size)              # what overlapping costs

A value lives from its node's turn until the last node that reads it is done, as the executor keeps
it. A communication is done, for certain, when compute that waits for it begins; until then it holds
what it sends. Views and parts of a joined tensor have no bytes of their own.
"""

from collections.abc import Sequence

from torch import Tensor

from ndtrain.overlap.buffers import placements
from ndtrain.overlap.node_cost import received
from ndtrain.overlap.order import Order
from ndtrain.overlap.schedule import Communication, Compute, Schedule


def extra_bytes(schedule: Schedule, blocking: Schedule, inputs: Sequence[Tensor], size: int) -> int:
    """What `schedule` holds above `blocking`, its form without overlap; never negative."""
    more = held_bytes(schedule, inputs, size) - held_bytes(blocking, inputs, size)
    return max(0, more)


def held_bytes(schedule: Schedule, inputs: Sequence[Tensor], size: int) -> int:
    """inputs: meta tensors of one rank's shapes and dtypes; size: ranks of the axis."""
    owners, num_bytes = _owners(schedule, inputs, size)
    places = {node.name: place for place, node in enumerate(schedule.nodes)}
    born: dict[str, int] = {}
    last: dict[str, int] = {}
    ends = _ends(schedule)
    for name, owner in owners.items():
        if owner in num_bytes:
            born[owner] = min(born.get(owner, places[name]), places[name])
            last[owner] = max(last.get(owner, 0), ends[name])
    fullest = 0
    for place in range(len(schedule.nodes)):
        alive = [owner for owner in born if born[owner] <= place <= last[owner]]
        fullest = max(fullest, sum(num_bytes[owner] for owner in alive))
    return fullest


def _owners(
    schedule: Schedule, inputs: Sequence[Tensor], size: int
) -> tuple[dict[str, str], dict[str, int]]:
    """Node -> whose memory its value lies in: its own, a join's, an input's; bytes of owners."""
    values = dict(zip(schedule.inputs, inputs, strict=True))
    owners = {name: name for name in schedule.inputs}
    joined = placements(schedule)
    num_bytes: dict[str, int] = {}
    for node in schedule.nodes:
        tensors = [values[name] for name in node.inputs]
        if isinstance(node, Compute):
            value = node.operation(*tensors)
            lender = next((i for i, x in enumerate(tensors) if _share_memory(x, value)), None)
        else:
            assert isinstance(node, Communication)
            value = received(node, tensors[0], size)
            lender = 0 if size == 1 else None  # nothing is called, and the input comes back
        values[node.name] = value
        if node.name in joined:
            owners[node.name] = joined[node.name][0]
        elif lender is not None:
            owners[node.name] = owners[node.inputs[lender]]
        else:
            owners[node.name] = node.name
            num_bytes[node.name] = value.nbytes
    made = {node.name for node in schedule.nodes}
    return {name: owner for name, owner in owners.items() if name in made}, num_bytes


def _share_memory(x: Tensor, y: Tensor) -> bool:
    return x.untyped_storage()._cdata == y.untyped_storage()._cdata


def _ends(schedule: Schedule) -> dict[str, int]:
    """Node -> place of the last node at whose turn its value is still held."""
    order, users, end = Order(schedule), schedule.users(), len(schedule.nodes) - 1
    places = {node.name: place for place, node in enumerate(schedule.nodes)}
    nodes = {node.name: node for node in schedule.nodes}
    compute = [node.name for node in schedule.nodes if isinstance(node, Compute)]
    waited = dict(places)  # what a node is only `after` is held until its turn
    for node in schedule.nodes:
        waited |= dict.fromkeys(node.after, places[node.name])

    def is_done_at(reader: str) -> int:
        if isinstance(nodes[reader], Compute):
            return places[reader]
        waiting = (places[name] for name in compute if order.before(reader, name))
        return next(waiting, end)

    return {
        name: end
        if name in schedule.outputs
        else max([waited[name], *(is_done_at(reader) for reader in users[name])])
        for name in nodes
    }

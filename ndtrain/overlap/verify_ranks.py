"""What the ranks of an axis have to agree on, and whether they can get stuck together.

Communications are matched by their place on their stream, as process groups match them. A
collective ends when all ranks have begun it, a permute when both neighbours have.
"""

from collections import defaultdict
from collections.abc import Sequence

from ndtrain.overlap.schedule import Compute, Node, Permute, Schedule, Stream


def ranks_agree(schedules: Sequence[Schedule]) -> list[str]:
    """Differences between the ranks' communications: order, kind, stream, partner."""
    return _same_order(schedules) + _permutes_meet(schedules)


def ranks_get_on(schedules: Sequence[Schedule]) -> list[str]:
    """The nodes that are never done, whatever the timing: empty unless there is a deadlock."""
    queues = [_by_stream(schedule) for schedule in schedules]
    done: list[set[str]] = [set(schedule.inputs) for schedule in schedules]
    heads = [dict.fromkeys(queue, 0) for queue in queues]
    moved = True
    while moved:
        moved = False
        for rank, queue in enumerate(queues):
            for stream, nodes in queue.items():
                while heads[rank][stream] < len(nodes):
                    node = nodes[heads[rank][stream]]
                    if not _can_end(node, rank, heads[rank][stream], queues, heads, done):
                        break
                    done[rank].add(node.name)
                    heads[rank][stream] += 1
                    moved = True
    return [
        f"deadlock: rank {rank} never ends `{nodes[heads[rank][stream]].name}` on {stream}"
        for rank, queue in enumerate(queues)
        for stream, nodes in queue.items()
        if heads[rank][stream] < len(nodes)
    ]


Queues = dict[Stream, list[Node]]


def _by_stream(schedule: Schedule) -> Queues:
    queues: Queues = defaultdict(list)
    for node in schedule.nodes:
        queues[node.stream].append(node)
    return dict(queues)


def _can_end(
    node: Node,
    rank: int,
    place: int,
    queues: list[Queues],
    heads: list[dict[Stream, int]],
    done: list[set[str]],
) -> bool:
    if not done[rank].issuperset(node.dependencies):
        return False
    if isinstance(node, Compute):
        return True
    for partner in _partners(node, rank, len(queues)):
        theirs = queues[partner].get(node.stream, [])[place : place + 1]
        if not theirs or _kind(theirs[0], len(queues)) != _kind(node, len(queues)):
            return False
        reached = heads[partner][node.stream]
        has_begun = reached == place and done[partner].issuperset(theirs[0].dependencies)
        if not has_begun and reached <= place:
            return False
    return True


def _partners(node: Node, rank: int, size: int) -> list[int]:
    if isinstance(node, Permute):
        return [(rank - node.shift) % size, (rank + node.shift) % size]
    return list(range(size))


def _kind(node: Node, size: int) -> tuple[str, int]:
    shift = node.shift % size if isinstance(node, Permute) else 0
    return type(node).__name__, shift


def _communications(schedule: Schedule) -> list[Node]:
    return [node for node in schedule.nodes if not isinstance(node, Compute)]


def _shown(node: Node) -> str:
    shift = f" by {node.shift:+d}" if isinstance(node, Permute) else ""
    return f"`{node.name}` ({type(node).__name__}{shift} on {node.stream})"


def _same_order(schedules: Sequence[Schedule]) -> list[str]:
    problems = []
    expected = _communications(schedules[0])
    for rank, schedule in enumerate(schedules[1:], start=1):
        found = _communications(schedule)
        if len(found) != len(expected):
            problems.append(
                f"rank {rank} issues {len(found)} communications, rank 0 {len(expected)}"
            )
        for theirs, ours in zip(found, expected, strict=False):
            if _shown(theirs) != _shown(ours):
                problems.append(f"rank {rank} issues {_shown(theirs)} where rank 0 {_shown(ours)}")
                break  # what follows is shifted by this one
    return problems


def _permutes_meet(schedules: Sequence[Schedule]) -> list[str]:
    size, problems = len(schedules), []
    queues = [_by_stream(schedule) for schedule in schedules]
    for rank, queue in enumerate(queues):
        for stream, nodes in queue.items():
            for place, node in enumerate(nodes):
                if not isinstance(node, Permute):
                    continue
                if node.shift % size == 0:
                    problems.append(f"rank {rank} sends `{node.name}` to itself")
                    continue
                target = (rank + node.shift) % size
                there = queues[target].get(stream, [])[place : place + 1]
                if not there or _kind(there[0], size) != _kind(node, size):
                    problems.append(
                        f"rank {rank} sends `{node.name}` to rank {target}, which does not "
                        f"receive it at that place of {stream}"
                    )
    return problems

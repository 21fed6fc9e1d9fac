"""Proves of a schedule, before it runs, that no timing can make it wrong or stuck.

    problems = verify(lambda rank: gather_matmul("qkv", Place(rank, 8), "ring"), 8)   # [] if right

Of each rank: names are unique, every value is made before it is read, in the order of issue and
across streams; what lies in a joined tensor is written once, in its own block, before the join;
what is written over has been read. Of the ranks together: they issue the same communications in
the same order, sends meet receives, and streams that wait for each other and for other ranks
always get on.
"""

from collections import Counter
from collections.abc import Callable, Mapping

from ndtrain.overlap.buffers import placements
from ndtrain.overlap.operations import Join, Overwriting
from ndtrain.overlap.order import Order, Waits
from ndtrain.overlap.schedule import Compute, Schedule
from ndtrain.overlap.verify_ranks import ranks_agree, ranks_get_on

Places = Mapping[str, tuple[str, int]]
"""Value -> (join, block), as `buffers.placements` assigns them."""


def verify(schedule_of_rank: Callable[[int], Schedule], size: int) -> list[str]:
    """The problems of an operation on an axis of `size` ranks; empty if there are none."""
    schedules = [schedule_of_rank(rank) for rank in range(size)]
    problems: dict[str, list[int]] = {}
    for rank, schedule in enumerate(schedules):
        for problem in verify_rank(schedule):
            problems.setdefault(problem, []).append(rank)
    found = [f"{_ranks(ranks, size)}: {problem}" for problem, ranks in problems.items()]
    return [*found, *ranks_agree(schedules), *ranks_get_on(schedules)]


def verify_rank(
    schedule: Schedule, waits: Waits | None = None, places: Places | None = None
) -> list[str]:
    """The problems that one rank's schedule has on its own.

    waits: what each node waits for, by default all its dependencies. places: where values lie, by
    default where the executor puts them.
    """
    problems = _names(schedule) or _joins(schedule)
    if problems:  # nothing else can be told of a graph whose names or blocks mean nothing
        return problems
    order = Order(schedule, waits)
    places = placements(schedule) if places is None else places
    return _races(schedule, order) + _places(schedule, order, places) + _overwrites(schedule, order)


def _ranks(ranks: list[int], size: int) -> str:
    if len(ranks) == size:
        return "every rank"
    return f"rank {', '.join(map(str, ranks))}"


def _names(schedule: Schedule) -> list[str]:
    """Every name has one meaning, and had it before it was used."""
    names = [*schedule.inputs, *(node.name for node in schedule.nodes)]
    problems = [
        f"{count} values are called `{name}`" for name, count in Counter(names).items() if count > 1
    ]
    made = set(schedule.inputs)
    for node in schedule.nodes:
        for name in dict.fromkeys(node.dependencies):
            if name not in made:
                why = "issued after it" if name in names else "made by nothing"
                problems.append(f"`{node.name}` needs `{name}`, which is {why}")
        made.add(node.name)
    problems += [
        f"the output `{name}` is made by nothing" for name in schedule.outputs if name not in made
    ]
    return problems


def _races(schedule: Schedule, order: Order) -> list[str]:
    made = {node.name for node in schedule.nodes}
    return [
        f"`{node.name}` may read `{name}` before it is made"
        for node in schedule.nodes
        for name in dict.fromkeys(node.inputs)
        if name in made and not order.before(name, node.name)
    ]


def _overwrites(schedule: Schedule, order: Order) -> list[str]:
    """What an operation writes over is no input or output, and its other readers are done."""
    problems, users = [], schedule.users()
    for node in schedule.nodes:
        if not (isinstance(node, Compute) and isinstance(node.operation, Overwriting)):
            continue
        name = node.inputs[node.operation.overwrites]
        if name in schedule.inputs or name in schedule.outputs:
            problems.append(f"`{node.name}` overwrites `{name}`, which is not its own")
        problems += [
            f"`{node.name}` may overwrite `{name}` before `{reader}` has read it"
            for reader in dict.fromkeys(users[name])
            if reader != node.name and not order.before(reader, node.name)
        ]
    return problems


def _joins(schedule: Schedule) -> list[str]:
    """A join fills each of its blocks once."""
    problems = []
    for node in schedule.nodes:
        if isinstance(node, Compute) and isinstance(node.operation, Join):
            blocks = Counter(node.operation.order)
            problems += [
                f"block {block} of `{node.name}` is written {blocks[block]} times"
                for block in range(len(node.inputs))
                if blocks[block] != 1
            ]
            if len(node.operation.order) != len(node.inputs):
                problems.append(
                    f"`{node.name}` has {len(node.inputs)} inputs for "
                    f"{len(node.operation.order)} blocks"
                )
    return problems


def _places(schedule: Schedule, order: Order, places: Places) -> list[str]:
    """What is written in place lies where its join expects it, alone, and early enough."""
    nodes = {node.name: node for node in schedule.nodes}
    problems = []
    writers: dict[tuple[str, int], str] = {}
    for name, place in places.items():
        if place in writers:
            join, block = place
            problems.append(
                f"`{writers[place]}` and `{name}` both lie in block {block} of `{join}`"
            )
        writers[place] = name
    for name, (join, block) in places.items():
        node = nodes[join]
        assert isinstance(node, Compute)
        assert isinstance(node.operation, Join)
        expected = dict(zip(node.operation.order, node.inputs, strict=False)).get(block)
        if expected != name:
            problems.append(f"`{name}` lies in block {block} of `{join}`, which is `{expected}`'s")
        elif not order.before(name, join):
            problems.append(f"`{join}` may be read before `{name}` is in its block {block}")
    return problems

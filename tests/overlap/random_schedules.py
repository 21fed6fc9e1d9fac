"""Random schedules that are right, to plant mistakes in."""

import dataclasses

from hypothesis import strategies as st

from ndtrain.overlap.operations import Join, Linear, Widen
from ndtrain.overlap.schedule import Schedule, ScheduleBuilder, Stream

INPUTS = ("x", "weight")
# What verifier and buffers treat differently: placeable or not, joined, hops, collectives.
KINDS = ("linear", "widen", "join", "permute", "all_gather", "reduce_scatter")


@st.composite
def right_schedules(draw: st.DrawFn, *certain: str) -> Schedule:
    """A graph of up to 10 nodes that any axis of more than two ranks can run.

    certain: kinds of nodes of which it has at least one each.
    """
    graph = ScheduleBuilder("random", INPUTS)
    made = list(INPUTS)
    others = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=10 - len(certain)))
    for index, kind in enumerate(draw(st.permutations([*certain, *others]))):
        name = f"node_{index}"
        value = draw(st.sampled_from(made))
        after = draw(st.lists(st.sampled_from(made), max_size=1))
        if kind == "linear":
            graph.compute(name, Linear(), (value, "weight"), after)
        elif kind == "widen":
            graph.compute(name, Widen(), (value,), after)
        elif kind == "join":
            joined = draw(st.lists(st.sampled_from(made), min_size=2, max_size=4, unique=True))
            order = draw(st.permutations(range(len(joined))))
            graph.compute(name, Join(tuple(order)), joined, after)
        elif kind == "permute":
            shift = draw(st.sampled_from([1, -1]))
            stream = draw(st.sampled_from([Stream.GATHER, Stream.SCATTER]))
            graph.permute(name, value, shift, stream, after)
        elif kind == "all_gather":
            graph.all_gather(name, value, after)
        else:
            graph.reduce_scatter(name, value, after)
        made.append(name)
    return graph.finish((made[-1],))


def with_nodes(schedule: Schedule, nodes: list) -> Schedule:
    return dataclasses.replace(schedule, nodes=tuple(nodes))

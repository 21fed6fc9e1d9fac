"""Order that a kernel asks for itself: `depends_on`, `with_schedule`, `no_reorder`.

The compiler keeps every pair of instructions in program order that touch the same memory, one of
them writing. A demanded edge may contradict that: then the instructions wait for each other on the
device and nothing runs. `check` finds such a circle.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ndtrain.nkisim.errors import ApiError, DeadlockError
from ndtrain.nkisim.trace import Instruction, Operand, Stream

Edge = tuple[int, int]
"""(producer, consumer): the consumer runs after the producer."""


def scheduled(stream: Stream, schedule: Iterable[tuple[str, Any]]) -> None:
    """Add the edges of `kernel.with_schedule([(consumer, producer or producers), ...])`."""
    named: dict[str, Instruction] = {}
    for instruction in stream:
        if instruction.name:
            named[instruction.name] = instruction  # of equal names the last, as in a loop
    for consumer, producers in schedule:
        names = [producers] if isinstance(producers, str) else list(producers)
        for name in (consumer, *names):
            if name not in named:
                raise ApiError(
                    f"with_schedule names `{name}`, which no instruction has",
                    help="name instructions with their `name` argument",
                )
        named[consumer].depends_on(*(named[n] for n in names))


def check(stream: Stream) -> None:
    """Refuse demanded edges that no execution can satisfy."""
    edges = [(p, i.index) for i in stream for p in i.after]
    backward = [(p, c) for p, c in edges if p > c]
    if not backward:
        return
    low, high = min(c for _, c in backward), max(p for p, _ in backward)
    part = stream.instructions[low : high + 1]
    graph = _data_edges(part) + [(p, c) for p, c in edges if low <= p <= high and low <= c <= high]
    stuck = _circle(range(low, high + 1), graph)
    if stuck:
        first, second = min(stuck), max(stuck)
        raise DeadlockError(
            f"{len(stuck)} instructions wait for each other, from {stream[first].opcode} "
            f"`{stream[first].name}` to {stream[second].opcode} `{stream[second].name}` at "
            f"{stream[second].where}",
            stream[first].where,
            "a demanded order contradicts the order of accesses to the same memory",
        )


def _data_edges(part: list[Instruction]) -> list[Edge]:
    seen: dict[Any, list[tuple[int, Operand, bool]]] = {}
    edges: list[Edge] = []
    for instruction in part:
        mine = [(o, False) for o in instruction.reads] + [(o, True) for o in instruction.writes]
        for operand, writes in mine:
            for key in _memory(operand):
                for index, other, wrote in seen.setdefault(key, []):
                    both = (writes or wrote) and _overlap(operand, other)
                    if both and index != instruction.index:
                        edges.append((index, instruction.index))
                seen[key].append((instruction.index, operand, writes))
    return edges


def _memory(operand: Operand) -> list[Any]:
    """What identifies the memory: the arena for explicit addresses, else the tensor."""
    tensor = operand.tensor
    return [tensor.space] if tensor.address is not None else [tensor.ident]


def _overlap(a: Operand, b: Operand) -> bool:
    p0, p1, b0, b1 = a.extent()
    q0, q1, c0, c1 = b.extent()
    return p0 < q1 and q0 < p1 and b0 < c1 and c0 < b1


def _circle(nodes: range, edges: list[Edge]) -> set[int]:
    """The nodes that no topological order reaches."""
    waits = dict.fromkeys(nodes, 0)
    after: dict[int, list[int]] = {n: [] for n in nodes}
    for producer, consumer in set(edges):
        waits[consumer] += 1
        after[producer].append(consumer)
    ready = [n for n in nodes if not waits[n]]
    while ready:
        node = ready.pop()
        del waits[node]
        for consumer in after[node]:
            waits[consumer] -= 1
            if not waits[consumer]:
                ready.append(consumer)
    return set(waits)

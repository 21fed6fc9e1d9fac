"""Which nodes of a schedule are certainly done before another begins, and which may run at once.

    order = Order(schedule)
    order.before("hop_1", "product_1")      # True: product_1 waits for hop_1
    order.concurrent()                      # [("hop_1", "product_0"), ...]

What counts is what holds on every backend: nodes of one stream run in the order of issue, and a
node begins when what it waits for is done. Happens-before in the sense of Lamport (1978,
doi:10.1145/359545.359563), with streams for processes.
"""

from collections.abc import Mapping, Sequence

from ndtrain.overlap.schedule import Compute, Schedule, Stream

Waits = Mapping[str, Sequence[str]]
"""Node -> values that it waits for."""


class Order:
    def __init__(self, schedule: Schedule, waits: Waits | None = None) -> None:
        """waits: None means that each node waits for all its dependencies, as executors do.

        Names must be unique and every dependency issued before its reader (`verify.py` checks).
        """
        self._schedule = schedule
        self._position = {node.name: place for place, node in enumerate(schedule.nodes)}
        self._done_before: list[int] = []  # bit p of entry q: node p is done before node q begins
        latest: dict[Stream, int] = {}
        for place, node in enumerate(schedule.nodes):
            awaited = node.dependencies if waits is None else waits[node.name]
            direct = [self._position[name] for name in awaited if name in self._position]
            if node.stream in latest:
                direct.append(latest[node.stream])
            done = 0
            for other in direct:
                done |= self._done_before[other] | 1 << other
            self._done_before.append(done)
            latest[node.stream] = place

    def before(self, first: str, second: str) -> bool:
        """Whether node `first` is done before node `second` begins, whatever the timing."""
        return bool(self._done_before[self._position[second]] >> self._position[first] & 1)

    def concurrent(self) -> list[tuple[str, str]]:
        """(communication, compute) pairs that may run at the same time: what can be hidden."""
        compute = [node.name for node in self._schedule.nodes if isinstance(node, Compute)]
        moving = [node.name for node in self._schedule.nodes if not isinstance(node, Compute)]
        return [
            (moved, computed)
            for moved in moving
            for computed in compute
            if not self.before(moved, computed) and not self.before(computed, moved)
        ]

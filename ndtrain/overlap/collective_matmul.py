"""The overlapped operations of tensor parallelism as schedules.

    forward of column-parallel     gather_matmul         all-gather -> matmul
    forward of row-parallel        matmul_scatter        matmul -> reduce-scatter
    backward of column-parallel    column_backward       gather beside dgrad, scatter beside wgrad
    backward of row-parallel       row_backward          all-gather -> matmul, wgrad from what came

Modes. off: one collective, then one product. bulk: independent work fills the wait. ring: own chunk
first, the next chunk hops from neighbour to neighbour while this one multiplies (Wang et al. 2023,
doi:10.1145/3567955.3567959). chunk: sub-chunks of the ordinary collective, for backends without
send and receive. Only the operations know the rank: the graph is the same on all.
"""

from typing import Literal

from ndtrain.overlap.operations import (
    AddPartial,
    InputGradient,
    Join,
    JoinStrided,
    Linear,
    Narrow,
    Operation,
    Rows,
    StridedRows,
    WeightGradient,
    Widen,
)
from ndtrain.overlap.schedule import Schedule, ScheduleBuilder, Stream

Mode = Literal["off", "bulk", "chunk", "ring"]
MODES: tuple[Mode, ...] = ("off", "bulk", "chunk", "ring")
NUM_CHUNKS = 2  # of a shard in `chunk`: enough to start early, large enough for the products


def gather_matmul(name: str, size: int, rank: int, mode: Mode) -> Schedule:
    """(x [S/t, B, in], weight [out, in]) -> y [S, B, out]."""
    graph = ScheduleBuilder(name, ("x", "weight"))
    if mode == "ring":
        hops = _Hops(graph, "x", size, rank)
        y = hops.product(Linear())
    elif mode == "chunk":
        y = _chunked_product(graph, Linear(), _chunked_gather(graph, "x"), size)
    else:
        y = graph.compute("product", Linear(), (graph.all_gather("gather", "x"), "weight"))
    return graph.finish((y,))


def matmul_scatter(name: str, size: int, rank: int, mode: Mode) -> Schedule:
    """(x [S, B, in], weight [out, in]) -> own rows [S/t, B, out] of the sum over the ranks."""
    graph = ScheduleBuilder(name, ("x", "weight"))
    if mode == "ring":
        y = _RunningSums(graph, Linear(), "x", size, rank).finish()
    elif mode == "chunk":
        y = graph.compute("y", _in_order(NUM_CHUNKS), _chunked_scatter(graph, Linear(), "x", size))
    else:
        product = graph.compute("product", Linear(), ("x", "weight"))
        y = graph.reduce_scatter("scatter", product)
    return graph.finish((y,))


def column_backward(name: str, size: int, rank: int, mode: Mode) -> Schedule:
    """(dy [S, B, out], x [S/t, B, in], weight) -> dx [S/t, B, in], dweight.

    x is gathered again under the dgrad; dx is reduced under the wgrad (bulk), or chunk by chunk
    under the dgrad with only the last hop under the wgrad (ring, chunk).
    """
    graph = ScheduleBuilder(name, ("dy", "x", "weight"))
    if mode == "ring":
        hops = _Hops(graph, "x", size, rank)
        hops.start()
        sums = _RunningSums(graph, InputGradient(), "dy", size, rank)
        dweight = graph.compute("dweight", WeightGradient(), ("dy", hops.gathered()))
        return graph.finish((sums.finish(), dweight))
    x_full = graph.all_gather("gather", "x")
    if mode == "chunk":
        parts = _chunked_scatter(graph, InputGradient(), "dy", size)
        dweight = graph.compute("dweight", WeightGradient(), ("dy", x_full))
        dx = graph.compute("dx", _in_order(NUM_CHUNKS), parts)
        return graph.finish((dx, dweight))
    # Blocking, the dgrad also waits for the gather and the wgrad for the scatter: those two
    # waits are all that `bulk` removes.
    blocks = mode == "off"
    product = graph.compute(
        "product", InputGradient(), ("dy", "weight"), (x_full,) if blocks else ()
    )
    dx = graph.reduce_scatter("scatter", product)
    dweight = graph.compute("dweight", WeightGradient(), ("dy", x_full), (dx,) if blocks else ())
    return graph.finish((dx, dweight))


def row_backward(name: str, size: int, rank: int, mode: Mode) -> Schedule:
    """(dy [S/t, B, out], x [S, B, in], weight) -> dx [S, B, in], dweight.

    The gathered dy serves the dgrad, chunk by chunk, and the wgrad, whole.
    """
    graph = ScheduleBuilder(name, ("dy", "x", "weight"))
    if mode == "ring":
        hops = _Hops(graph, "dy", size, rank)
        dx, dy_full = hops.product(InputGradient()), hops.gathered()
    elif mode == "chunk":
        parts = _chunked_gather(graph, "dy")
        dx = _chunked_product(graph, InputGradient(), parts, size)
        dy_full = graph.compute("dy_full", JoinStrided(size), parts)
    else:
        dy_full = graph.all_gather("gather", "dy")
        dx = graph.compute("product", InputGradient(), (dy_full, "weight"))
    dweight = graph.compute("dweight", WeightGradient(), (dy_full, "x"))
    return graph.finish((dx, dweight))


class _Hops:
    """Every rank's shard comes by, half of them from either side of the ring."""

    def __init__(self, graph: ScheduleBuilder, local: str, size: int, rank: int) -> None:
        self._graph, self._local = graph, local
        self._values = [local]
        self._sources = [rank]
        self._sides: list[tuple[int, int]] = []  # (shift, distance) of each hop, in order
        for distance in range(1, size // 2 + 1):
            self._sides.append((1, distance))
            if 2 * distance < size:  # of an even ring the opposite rank comes once
                self._sides.append((-1, distance))
        self._size, self._rank = size, rank
        self._latest = {1: local, -1: local}

    def product(self, operation: Operation) -> str:
        """The product of each shard while the next one is on its way."""
        graph = self._graph
        self._issue(2)
        products = []
        for index in range(self._size):
            value = self._values[index]
            products.append(graph.compute(f"product_{index}", operation, (value, "weight")))
            self._issue(1)
        return graph.compute("joined_product", Join(tuple(self._sources)), products)

    def start(self) -> None:
        """All shards on their way; joining them is left for later, where compute would wait."""
        self._issue(self._size)

    def gathered(self) -> str:
        """All shards in rank order."""
        self.start()
        return self._graph.compute("gathered", Join(tuple(self._sources)), self._values)

    def _issue(self, count: int) -> None:
        for shift, distance in self._sides[:count]:
            index = len(self._values)
            moved = self._graph.permute(f"hop_{index}", self._latest[shift], shift, Stream.GATHER)
            self._latest[shift] = moved
            self._values.append(moved)
            self._sources.append((self._rank - shift * distance) % self._size)
        del self._sides[:count]


class _RunningSums:
    """Partial sums travel once around: each rank adds its part and passes the sum on.

    A sum begins at the rank after its owner and ends with the owner's own part, in fp32: a fixed
    order, though another for each owner.
    """

    def __init__(
        self, graph: ScheduleBuilder, operation: Operation, local: str, size: int, rank: int
    ) -> None:
        self._graph = graph
        running, self._part = "", ""
        for step in range(size):
            arrived = graph.permute(f"pass_{step}", running, 1, Stream.SCATTER) if step else ""
            owner = (rank - 1 - step) % size
            rows = graph.compute(f"rows_{step}", Rows(owner, size), (local,))
            self._part = graph.compute(f"part_{step}", operation, (rows, "weight"))
            if step == size - 1:
                self._arrived = arrived
            elif step:
                running = graph.compute(f"sum_{step}", AddPartial(), (arrived, self._part))
            else:
                running = graph.compute("sum_0", Widen(), (self._part,))

    def finish(self) -> str:
        """The owner's sum; what was issued in between hides the last hop."""
        if not self._arrived:  # an axis of one rank
            return self._part
        total = self._graph.compute("total", AddPartial(), (self._arrived, self._part))
        return self._graph.compute("narrowed", Narrow(), (self._part, total))


def _chunked_gather(graph: ScheduleBuilder, local: str) -> list[str]:
    gathered = []
    for index in range(NUM_CHUNKS):
        rows = graph.compute(f"local_{index}", Rows(index, NUM_CHUNKS), (local,))
        gathered.append(graph.all_gather(f"gather_{index}", rows))
    return gathered


def _chunked_product(
    graph: ScheduleBuilder, operation: Operation, gathered: list[str], size: int
) -> str:
    products = [
        graph.compute(f"product_{index}", operation, (value, "weight"))
        for index, value in enumerate(gathered)
    ]
    return graph.compute("joined_product", JoinStrided(size), products)


def _chunked_scatter(
    graph: ScheduleBuilder, operation: Operation, local: str, size: int
) -> list[str]:
    scattered = []
    for index in range(NUM_CHUNKS):
        rows = graph.compute(f"rows_{index}", StridedRows(size, index, NUM_CHUNKS), (local,))
        part = graph.compute(f"part_{index}", operation, (rows, "weight"))
        scattered.append(graph.reduce_scatter(f"scatter_{index}", part))
    return scattered


def _in_order(count: int) -> Join:
    return Join(tuple(range(count)))

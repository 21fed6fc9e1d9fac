"""The overlapped operations of tensor parallelism as schedules.

    forward of column-parallel     gather_matmul         all-gather -> matmul
    forward of row-parallel        matmul_scatter        matmul -> reduce-scatter
    backward of column-parallel    column_backward       gather beside dgrad, scatter beside wgrad
    backward of row-parallel       row_backward          all-gather -> matmul, wgrad from what came

Modes. off: one collective or one product at a time, in backward too, and whoever reads the first
output comes behind all of them. bulk: independent work fills the wait. ring: own chunk first, the
next chunk hops from neighbour to neighbour while this one multiplies (Wang et al. 2023,
doi:10.1145/3567955.3567959). ring2: the same with each chunk in two halves, which travel on their
own: on two ranks a transfer then hides behind three quarters of the product instead of a half.
chunk: sub-chunks of the ordinary collective, for backends without send and receive. Only the
operations know the rank: the graph is the same on all.

Where the place is data not even they do: a ring is that of the first rank, and what is indexed by
rank is turned, own rows first (`Turn`). That is a copy, so only what is a t-th of the layer wide
turns; a weight gradient has two turned sides, and its sum another order.
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
    Same,
    StridedRows,
    Turn,
    TurnBack,
    WeightGradient,
    Widen,
)
from ndtrain.overlap.schedule import Schedule, ScheduleBuilder, Stream
from ndtrain.runtime.place import Place, TracedPlace

Mode = Literal["off", "bulk", "chunk", "ring", "ring2"]
MODES: tuple[Mode, ...] = ("off", "bulk", "chunk", "ring", "ring2")
NUM_CHUNKS = 2  # of a shard in `chunk`: enough to start early, large enough for the products
HALVES: dict[Mode, int] = {"ring": 1, "ring2": 2}  # of a shard that travel on their own
DIVIDES: tuple[Mode, ...] = ("chunk", "ring2")  # forms that need an even number of rows in a shard


def gather_matmul(name: str, place: Place, mode: Mode) -> Schedule:
    """(x [S/t, B, in], weight [out, in]) -> y [S, B, out]."""
    graph = ScheduleBuilder(name, ("x", "weight"))
    if mode in HALVES:
        hops = _Hops(graph, "x", place, HALVES[mode])
        y = hops.product(Linear())
    elif mode == "chunk":
        y = _chunked_product(graph, Linear(), _chunked_gather(graph, "x"), place.size)
    else:
        y = graph.compute("product", Linear(), (graph.all_gather("gather", "x"), "weight"))
    return graph.finish((y,))


def matmul_scatter(name: str, place: Place, mode: Mode) -> Schedule:
    """(x [S, B, in], weight [out, in]) -> own rows [S/t, B, out] of the sum over the ranks."""
    graph = ScheduleBuilder(name, ("x", "weight"))
    if mode in HALVES:
        x = _turned(graph, "x", place)
        y = _RunningSums(graph, Linear(), x, place, HALVES[mode]).finish()
    elif mode == "chunk":
        y = graph.compute(
            "y", _in_order(NUM_CHUNKS), _chunked_scatter(graph, Linear(), "x", place.size)
        )
    else:
        product = graph.compute("product", Linear(), ("x", "weight"))
        y = graph.reduce_scatter("scatter", product)
    return graph.finish((y,))


def column_backward(name: str, place: Place, mode: Mode) -> Schedule:
    """(dy [S, B, out], x [S/t, B, in], weight) -> dx [S/t, B, in], dweight.

    x is gathered again under the dgrad, or before it (`early.py`: what needs only x stands in
    front); dx is reduced under the wgrad (bulk), or chunk by chunk under the dgrad with only the
    last hop under the wgrad (ring, chunk).
    """
    graph = ScheduleBuilder(name, ("dy", "x", "weight"))
    if mode in HALVES:
        hops = _Hops(graph, "x", place, HALVES[mode])
        hops.start()
        dy = _turned(graph, "dy", place)
        sums = _RunningSums(graph, InputGradient(), dy, place, HALVES[mode])
        dweight = graph.compute("dweight", WeightGradient(), (dy, hops.gathered()))
        return graph.finish((sums.finish(), dweight))
    if mode == "off":  # each node waits for the one before it, and the first output for all
        product = graph.compute("product", InputGradient(), ("dy", "weight"))
        x_full = graph.all_gather("gather", "x", (product,))
        dweight = graph.compute("dweight", WeightGradient(), ("dy", x_full))
        dx = graph.reduce_scatter("scatter", product, (dweight,))
        return graph.finish((dx, dweight))
    x_full = graph.all_gather("gather", "x")
    if mode == "chunk":
        parts = _chunked_scatter(graph, InputGradient(), "dy", place.size)
        dweight = graph.compute("dweight", WeightGradient(), ("dy", x_full))
        dx = graph.compute("dx", _in_order(NUM_CHUNKS), parts)
        return graph.finish((dx, dweight))
    product = graph.compute("product", InputGradient(), ("dy", "weight"))
    dx = graph.reduce_scatter("scatter", product)
    dweight = graph.compute("dweight", WeightGradient(), ("dy", x_full))
    return graph.finish((dx, dweight))


def row_backward(name: str, place: Place, mode: Mode) -> Schedule:
    """(dy [S/t, B, out], x [S, B, in], weight) -> dx [S, B, in], dweight.

    The gathered dy serves the dgrad, chunk by chunk, and the wgrad, whole.
    """
    graph, x = ScheduleBuilder(name, ("dy", "x", "weight")), "x"
    if mode in HALVES:
        hops = _Hops(graph, "dy", place, HALVES[mode])
        dx, dy_full = hops.product(InputGradient()), hops.gathered()
        x = _turned(graph, "x", place)
    elif mode == "chunk":
        parts = _chunked_gather(graph, "dy")
        dx = _chunked_product(graph, InputGradient(), parts, place.size)
        dy_full = graph.compute("dy_full", JoinStrided(place.size), parts)
    else:
        dy_full = graph.all_gather("gather", "dy")
        dx = graph.compute("product", InputGradient(), (dy_full, "weight"))
    dweight = graph.compute("dweight", WeightGradient(), (dy_full, x))
    if mode == "off":  # whoever reads dx comes behind the wgrad too
        dx = graph.compute("dx", Same(), (dx,), (dweight,))
    return graph.finish((dx, dweight))


def _turned(graph: ScheduleBuilder, value: str, place: Place) -> str:
    """All rows in the order in which the schedule counts."""
    if not isinstance(place, TracedPlace):
        return value
    return graph.compute(f"turned_{value}", Turn(place), (value,))


class _Hops:
    """Every rank's shard comes by, half of them from either side of the ring."""

    def __init__(self, graph: ScheduleBuilder, local: str, place: Place, num_parts: int) -> None:
        """num_parts: of a shard; each hops on its own."""
        self._graph, self._place, self._num_parts = graph, place, num_parts
        self._values: list[str] = []
        self._blocks: list[int] = []  # the place of each value among all
        self._sides: list[tuple[int, int]] = []  # (shift, distance) of each hop, in order
        for distance in range(1, place.size // 2 + 1):
            self._sides.append((1, distance))
            if 2 * distance < place.size:  # of an even ring the opposite rank comes once
                self._sides.append((-1, distance))
        own = [local]
        if num_parts > 1:
            own = [
                graph.compute(f"local_{part}", Rows(part, num_parts), (local,))
                for part in range(num_parts)
            ]
        self._keep(own, place.counted)
        self._latest = {1: own, -1: own}

    def product(self, operation: Operation) -> str:
        """The product of each shard while the next one is on its way."""
        graph = self._graph
        self._issue(2)
        products = []
        for index in range(self._place.size * self._num_parts):
            value = self._values[index]
            products.append(graph.compute(f"product_{index}", operation, (value, "weight")))
            if (index + 1) % self._num_parts == 0:
                self._issue(1)
        joined = graph.compute("joined_product", Join(tuple(self._blocks)), products)
        if not isinstance(self._place, TracedPlace):
            return joined
        return graph.compute("turned_back", TurnBack(self._place), (joined,))

    def start(self) -> None:
        """All shards on their way; joining them is left for later, where compute would wait."""
        self._issue(self._place.size)

    def gathered(self) -> str:
        """All shards in rank order, or turned."""
        self.start()
        return self._graph.compute("gathered", Join(tuple(self._blocks)), self._values)

    def _issue(self, count: int) -> None:
        for shift, distance in self._sides[:count]:
            moved = [
                self._graph.permute(f"hop_{index}", value, shift, Stream.GATHER)
                for index, value in enumerate(self._latest[shift], len(self._values))
            ]
            self._latest[shift] = moved
            self._keep(moved, (self._place.counted - shift * distance) % self._place.size)
        del self._sides[:count]

    def _keep(self, parts: list[str], source: int) -> None:
        self._values += parts
        self._blocks += range(source * self._num_parts, (source + 1) * self._num_parts)


class _RunningSums:
    """Partial sums travel once around: each rank adds its part and passes the sum on.

    A sum begins at the rank after its owner and ends with the owner's own part, in fp32: a fixed
    order, though another for each owner.
    """

    def __init__(
        self,
        graph: ScheduleBuilder,
        operation: Operation,
        local: str,
        place: Place,
        num_parts: int,
    ) -> None:
        """local: turned. num_parts: of a shard; the sum of each travels on its own."""
        self._graph, size = graph, place.size
        count = num_parts if size > 1 else 1
        arrived, self._own = [""] * count, [""] * count
        for step in range(size):
            owner = (place.counted - 1 - step) % size
            for part in range(count):
                half = "" if count == 1 else f"_{part}"
                label = f"{step}{half}"
                rows = Rows(owner * count + part, size * count)
                read = graph.compute(f"rows_{label}", rows, (local,))
                own = graph.compute(f"part_{label}", operation, (read, "weight"))
                if step == size - 1:
                    self._own[part] = own
                    continue
                total = (
                    graph.compute(f"sum_{label}", AddPartial(), (arrived[part], own))
                    if step
                    else graph.compute(f"sum_{label}", Widen(), (own,))
                )
                arrived[part] = graph.permute(f"pass_{step + 1}{half}", total, 1, Stream.SCATTER)
        self._arrived = arrived

    def finish(self) -> str:
        """The owner's sum; what was issued in between hides the last hop."""
        if not self._arrived[0]:  # an axis of one rank
            return self._own[0]
        finished = []
        for part, (arrived, own) in enumerate(zip(self._arrived, self._own, strict=True)):
            label = "" if len(self._own) == 1 else f"_{part}"
            total = self._graph.compute(f"total{label}", AddPartial(), (arrived, own))
            finished.append(self._graph.compute(f"narrowed{label}", Narrow(), (own, total)))
        return finished[0] if len(finished) == 1 else self._join(finished)

    def _join(self, parts: list[str]) -> str:
        return self._graph.compute("joined_sums", _in_order(len(parts)), parts)


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

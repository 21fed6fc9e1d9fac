"""Real ranks whose streams are late at random: what a rank runs for test_delays.py.

Of three seeds one delays both, one compute alone and one communication alone, so that orders of
completion differ. A delay is some milliseconds, a chunk of these shapes takes microseconds.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.execute import execute
from ndtrain.overlap.schedule import Compute, Schedule, Stream
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.runtime import Runtime, start_cpu
from ndtrain.runtime.streams import Pending, Work
from ndtrain.runtime.streams import Stream as StreamOfRuntime
from tests.overlap.cases import build, inputs
from tests.overlap.lone import Watched

DELAY_S = 0.003
# For mutants, whose value alone is late: longer than all else, also on a busy machine.
LONG_DELAY_S = 0.1
COMPUTE_ALONE, COMMUNICATION_ALONE = 1, 2  # of 3


class Late:
    """A stream whose operations begin late and are seen to be done late."""

    def __init__(self, stream: StreamOfRuntime, delay: Callable[[], None]) -> None:
        self._stream, self._delay = stream, delay
        self.pending: dict[str, Pending] = {}

    def submit(self, name: str, work: Work) -> Pending:
        def late(collectives: Collectives) -> Tensor:
            self._delay()
            value = work(collectives)
            self._delay()
            return value

        self.pending[name] = self._stream.submit(name, late)
        return self.pending[name]


class Delays:
    """Who is late, and how much, under a seed; another may begin at any time."""

    def __init__(self, rank: int, seed: int, delay_s: float = DELAY_S) -> None:
        self._rank, self._delay_s = rank, delay_s
        self.begin(seed)

    def begin(self, seed: int) -> None:
        self._seed, self._source = seed, random.Random(f"{seed} {self._rank}")

    def communication(self) -> None:
        if self._seed % 3 != COMPUTE_ALONE:
            self._sleep()

    def compute(self, streams: Mapping[str, Late]) -> None:
        if self._seed % 3 == COMPUTE_ALONE:  # as late as it takes, however slow the machine is
            _await_all(streams)
        elif self._seed % 3 != COMMUNICATION_ALONE:
            self._sleep()

    def _sleep(self) -> None:
        time.sleep(self._source.uniform(0.3, 1) * self._delay_s)


def late_runtime(runtime: Runtime, delays: Delays, only: str | None = None) -> Watched:
    """only: the one lane that is late; None: all."""

    def nothing() -> None: ...

    streams = {
        lane: Late(stream, delays.communication if only in (None, lane) else nothing)
        for lane, stream in runtime.streams.items()
    }
    fields = {f.name: getattr(runtime, f.name) for f in dataclasses.fields(Runtime)}
    return Watched(
        **(fields | {"streams": streams}), before_compute=lambda name: delays.compute(streams)
    )


def _await_all(streams: Mapping[str, Late]) -> None:
    """Until all that was submitted is done, or for a second."""
    deadline = time.monotonic() + 1
    for stream in streams.values():
        for pending in list(stream.pending.values()):
            while not pending.is_done and time.monotonic() < deadline:
                time.sleep(1e-4)


class Delayed(NamedTuple):
    num_different: int  # runs whose bits are not the serial run's
    orders: set[tuple[str, ...]]  # in which nodes were seen to end, compute and communication


def run_delayed(
    rank: int,
    size: int,
    seeds: list[int],
    schedules: list[tuple[str, Mode]],
    delay_s: float = DELAY_S,
) -> dict[tuple[str, Mode], Delayed]:
    """Each of the schedules under every seed."""
    runtime = start_cpu(size, 1, num_kv_heads=size)
    found = {}
    for operation, mode in schedules:
        schedule = build(operation, mode, size, rank)
        expected = _serial(schedule, operation, runtime)
        delayed = Delayed(0, set())
        for seed in seeds:
            late = late_runtime(runtime, Delays(rank, seed, delay_s))
            outputs = _run(schedule, operation, late)
            spans = sorted(runtime.spans.drain(), key=lambda span: span.stop_ns)
            order = tuple(span.name.split(".")[1] for span in spans)
            delayed = delayed._replace(
                num_different=delayed.num_different + (not _equal(outputs, expected)),
                orders=delayed.orders | {order},
            )
        found[operation, mode] = delayed
    return found


@dataclass(frozen=True, eq=False)
class Unawaited:
    """What lies in the memory of a value that nobody waited for: NaN until it has arrived."""

    name: str
    finished: Tensor  # of another run: its shape and dtype
    pending: dict[str, Pending] = field(default_factory=dict)

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        pending = self.pending[self.name]
        return pending.wait() if pending.is_done else torch.full_like(self.finished, torch.nan)


def without_wait(schedule: Schedule, reader: str, operation: Unawaited, name: str) -> Schedule:
    """The schedule in which `reader` takes `name` as it is when the reader's turn comes."""
    taken = Compute("unawaited", Stream.COMPUTE, (), (), operation)
    nodes = []
    for node in schedule.nodes:
        if node.name == reader:
            nodes.append(taken)
            new = tuple("unawaited" if value == name else value for value in node.inputs)
            node = dataclasses.replace(node, inputs=new)
        nodes.append(node)
    return dataclasses.replace(schedule, nodes=tuple(nodes))


Edge = tuple[str, Mode, str, str]  # operation, mode, reader, communication that it reads


def run_mutants(rank: int, size: int, edges: list[Edge], seeds: list[int]) -> dict[Edge, bool]:
    """For each wait that is left out, whether some seed shows it in the results."""
    runtime = start_cpu(size, 1, num_kv_heads=size)
    caught = {}
    for edge in edges:
        operation, mode, reader, name = edge
        schedule = build(operation, mode, size, rank)
        expected = _serial(schedule, operation, runtime)
        lane = next(node.stream for node in schedule.nodes if node.name == name)
        late = late_runtime(runtime, Delays(rank, seed=0))
        _run(schedule, operation, late)
        finished = _pending(late, f"{operation}.{name}")[f"{operation}.{name}"].wait()
        caught[edge] = False
        for seed in seeds:
            late = late_runtime(runtime, Delays(rank, seed, LONG_DELAY_S), lane)
            pending: dict[str, Pending] = {}
            for stream in late.streams.values():
                assert isinstance(stream, Late)
                stream.pending = pending
            unawaited = Unawaited(f"{operation}.{name}", finished, pending)
            outputs = _run(without_wait(schedule, reader, unawaited, name), operation, late)
            caught[edge] |= not _equal(outputs, expected)
    return caught


def _pending(runtime: Watched, name: str) -> dict[str, Pending]:
    for stream in runtime.streams.values():
        assert isinstance(stream, Late)
        if name in stream.pending:
            return stream.pending
    raise AssertionError(f"{name} was not submitted")


def _run(schedule: Schedule, operation: str, runtime: Runtime) -> tuple[Tensor, ...]:
    axis = runtime.mesh.tensor
    tensors = inputs(operation, axis.size, axis.rank, torch.float32)
    return execute(schedule, tensors, runtime, axis)


def _serial(schedule: Schedule, operation: str, runtime: Runtime) -> tuple[Tensor, ...]:
    axis = runtime.mesh.tensor
    tensors = inputs(operation, axis.size, axis.rank, torch.float32)
    outputs = execute(schedule, tensors, runtime, axis, serial=True)
    runtime.spans.drain()
    return outputs


def _equal(outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(y, other) for y, other in zip(outputs, expected, strict=True))

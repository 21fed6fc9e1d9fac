"""A device with streams, without the device: it stands in for `torch.neuron` in tests.

    device = StandIn()
    with Watch(device) as watch:
        ...                              # streams of `device`, ordinary tensors of the CPU
    assert watch.races == []

Only the last inch is false. The CPU does each operation at once, in the order of issue. What a
device would have been allowed to do is kept as vector clocks: a stream's clock says, of each other
one, which of its operations come before this stream's next (Mattern 1989, Virtual Time and Global
States). `Watch` sees every operation and collective, and what memory it reads and writes.

A race is an access that no event orders behind the last write (a write: also behind the reads) of
another stream, or memory given again while another stream may still use it. The device is as slow
as it can be: an event is done when the host has waited for it, and no earlier.
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Clock = dict[int, int]  # stream -> number of its operations that come before


def join(clock: Clock, other: Clock) -> None:
    for stream, count in other.items():
        clock[stream] = max(clock.get(stream, 0), count)


def covers(clock: Clock, other: Clock) -> bool:
    return all(clock.get(stream, 0) >= count for stream, count in other.items())


class Event:
    def __init__(self, device: "StandIn", clock: Clock) -> None:
        self._device, self.clock = device, clock

    def query(self) -> bool:
        return covers(self._device.host, self.clock)

    def synchronize(self) -> None:
        join(self._device.host, self.clock)


class Stream:
    def __init__(self, device: "StandIn") -> None:
        self._device = device
        self.number = next(device.numbers)
        self.clock: Clock = {}
        device.streams.append(self)

    def record_event(self) -> Event:
        return Event(self._device, dict(self.clock))

    def wait_event(self, event: Event) -> None:
        if "wait_event" not in self._device.broken:
            join(self.clock, event.clock)

    def wait_stream(self, other: "Stream") -> None:
        if "wait_stream" not in self._device.broken:
            join(self.clock, other.clock)


class StandIn:
    """The part of torch.cuda's module that `device_streams.py` needs."""

    def __init__(self, broken: tuple[str, ...] = ()) -> None:
        """broken: methods of streams that do nothing, for mutants."""
        self.broken = broken
        self.numbers = itertools.count()
        self.streams: list[Stream] = []
        self.host: Clock = {}  # what the host knows to be done
        self._default = Stream(self)
        self._local = threading.local()

    def Stream(self) -> Stream:  # noqa: N802  as torch.cuda names it
        return Stream(self)

    def current_stream(self) -> Stream:
        return getattr(self._local, "stream", self._default)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before = self.current_stream()
        self._local.stream = stream
        try:
            yield
        finally:
            self._local.stream = before

    def device_count(self) -> int:
        return 1

    def synchronize(self) -> None:
        """The host waits for every stream."""
        for stream in self.streams:
            join(self.host, stream.clock)


class Access(NamedTuple):
    stream: int
    count: int
    name: str


@dataclass(eq=False)
class Memory:
    """One storage. owner: the stream that it was allocated on, None: before the watch began."""

    ref: StorageWeakRef
    owner: int | None
    last_write: Access | None = None
    reads: dict[int, Access] = field(default_factory=dict)

    def accesses(self) -> list[Access]:
        return [*self.reads.values(), *([self.last_write] if self.last_write else [])]


@dataclass(frozen=True)
class Operation:
    """As it was issued. clock: of its stream behind it."""

    name: str
    stream: int
    clock: Clock

    def is_before(self, other: "Operation") -> bool:
        return other.clock.get(self.stream, 0) >= self.clock[self.stream]


class Watch(TorchDispatchMode):
    """Sees what runs inside, in this thread. Two gloo ranks and a short step take seconds."""

    def __init__(self, device: StandIn) -> None:
        super().__init__()
        self._device = device
        self._memory: dict[int, Memory] = {}
        self._freed: dict[int, list[Memory]] = {}
        self.races: list[str] = []
        self.operations: list[Operation] = []  # products and collectives, in the order of issue

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """torch.compile works inside; what compiled graphs do is seen like everything else."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.is_view:
            return func(*args, **kwargs)
        name, stream = str(func), self._device.current_stream()
        join(stream.clock, self._device.host)
        reads, writes = _accesses(func, args, kwargs)
        for x in (*reads, *writes):
            self._of(x, None)
        out = func(*args, **kwargs)
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor) and not self._knows(x)]
        if made:
            self._allocate(stream, name)
        stream.clock[stream.number] = stream.clock.get(stream.number, 0) + 1
        access = Access(stream.number, stream.clock[stream.number], name)
        for x in reads:
            self._read(self._of(x, None), access, stream)
        for x in writes:
            self._write(self._of(x, None), access, stream)
        for x in made:
            memory = self._of(x, stream.number)
            if "empty" not in name:
                memory.last_write = access
        if name == "aten._local_scalar_dense.default":  # the host waits for the value
            join(self._device.host, stream.clock)
        if func.namespace == "c10d" or name.startswith(("aten.mm", "aten.addmm", "aten.bmm")):
            self.operations.append(Operation(name, stream.number, dict(stream.clock)))
        return out

    def hidden(self) -> list[Operation]:
        """Collectives with a product beside them that was issued later."""
        return [
            one
            for index, one in enumerate(self.operations)
            if one.name.startswith("c10d")
            and any(
                not other.name.startswith("c10d") and not one.is_before(other)
                for other in self.operations[index + 1 :]
            )
        ]

    def _knows(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self._memory

    def _of(self, x: Tensor, owner: int | None) -> Memory:
        storage = x.untyped_storage()
        if storage._cdata not in self._memory:
            # While the reference lives, no other storage has the same address.
            self._memory[storage._cdata] = Memory(StorageWeakRef(storage), owner)
        return self._memory[storage._cdata]

    def _allocate(self, stream: Stream, name: str) -> None:
        """Any memory that was freed and belongs to the stream may be given to it now."""
        for key, memory in list(self._memory.items()):
            if memory.ref.expired():
                del self._memory[key]
                if memory.owner is not None:
                    self._freed.setdefault(memory.owner, []).append(memory)
        for memory in self._freed.pop(stream.number, []):
            for access in memory.accesses():
                if stream.clock.get(access.stream, 0) < access.count:
                    self.races.append(f"{name} may be given memory that {access.name} still uses")

    def _read(self, memory: Memory, access: Access, stream: Stream) -> None:
        self._order(memory.last_write, access, stream)
        memory.reads[access.stream] = access

    def _write(self, memory: Memory, access: Access, stream: Stream) -> None:
        for before in memory.accesses():
            self._order(before, access, stream)
        memory.reads.clear()
        memory.last_write = access

    def _order(self, before: Access | None, access: Access, stream: Stream) -> None:
        if before is not None and stream.clock.get(before.stream, 0) < before.count:
            self.races.append(f"{access.name} does not come behind {before.name}")


def _accesses(func: Any, args: tuple, kwargs: dict) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors that the operation reads, and those that it writes, besides new ones."""
    if func.namespace == "c10d":  # (output, input, group, ...), without marks of what is written
        return _tensors(args[1]), _tensors(args[0])
    reads: list[Tensor] = []
    writes: list[Tensor] = []
    for index, argument in enumerate(func._schema.arguments):
        value = kwargs.get(argument.name, args[index] if index < len(args) else None)
        found = _tensors(value)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        if is_written:
            writes += found
        elif "empty" not in str(func) and "_like" not in str(func):
            reads += found
    return reads, writes


def _tensors(value: Any) -> list[Tensor]:
    return [x for x in tree_leaves(value) if isinstance(x, Tensor)]

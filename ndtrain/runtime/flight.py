"""The last collectives of each rank, in memory that others can read when the rank cannot answer.

    file = FlightFile(path, rank)                  # mapped: it outlives a SIGKILL or a SIGSTOP
    for lane, recorder in runtime.flights.items():
        recorder.move_to(file.lane(lane))
    print(diagnose({rank: read_flight(path) for rank, path in paths.items()}))

Each lane (`mesh.LANES`) numbers its calls; all ranks make the same calls in the same order, so
equal numbers are the same collective. Recording one costs about 2 us.
"""

import mmap
import os
import struct
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ndtrain.runtime.mesh import LANES

CAPACITY = 64  # calls of a lane that are kept
RUNNING = "running"

_HEAD = struct.Struct("<QQ")  # process id, rank
_CALL = struct.Struct("<QQdB15s80s")  # sequence from 1, bytes, start, is done, axis, name
_LANE_BYTES = CAPACITY * _CALL.size
_DONE_OFFSET = 24


@dataclass(frozen=True, slots=True)
class Call:
    sequence: int
    name: str
    axis: str
    num_bytes: int
    start: float  # seconds since the epoch
    is_done: bool

    def __str__(self) -> str:
        return f"call {self.sequence} `{self.name}` ({self.axis} axis, {self.num_bytes:,} bytes)"


class FlightRecorder:
    """A ring of calls of one lane; one thread at a time."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_LANE_BYTES))
        self.sequence = 0
        self.names_hash = 0  # of all names so far, in order

    def move_to(self, buffer: memoryview) -> None:
        buffer[:] = self._buffer
        self._buffer = buffer

    def begin(self, name: str, axis: str, num_bytes: int) -> None:
        self.sequence += 1
        self.names_hash = zlib.crc32(name.encode(), self.names_hash)
        row = (self.sequence, num_bytes, time.time(), 0, axis.encode(), name.encode()[-80:])
        _CALL.pack_into(self._buffer, self._offset(), *row)

    def end(self) -> None:
        self._buffer[self._offset() + _DONE_OFFSET] = 1

    def _offset(self) -> int:
        return self.sequence % CAPACITY * _CALL.size


class FlightFile:
    """The rings of all lanes of a rank in a file. Replaces what an earlier process left."""

    def __init__(self, path: Path, rank: int) -> None:
        path.unlink(missing_ok=True)
        size = _HEAD.size + len(LANES) * _LANE_BYTES
        with open(path, "w+b") as stream:
            stream.truncate(size)
            self._map = mmap.mmap(stream.fileno(), size)
        _HEAD.pack_into(self._map, 0, os.getpid(), rank)

    def lane(self, name: str) -> memoryview:
        start = _HEAD.size + LANES.index(name) * _LANE_BYTES
        return memoryview(self._map)[start : start + _LANE_BYTES]


@dataclass(frozen=True, slots=True)
class Flight:
    """What a rank did last, by lane, oldest first."""

    process_id: int
    calls: Mapping[str, list[Call]] = field(default_factory=dict)


def read_flight(path: Path) -> Flight:
    data = path.read_bytes()
    process_id, _ = _HEAD.unpack_from(data)
    calls = {}
    for index, lane in enumerate(LANES):
        start = _HEAD.size + index * _LANE_BYTES
        rows = _CALL.iter_unpack(data[start : start + _LANE_BYTES])
        found = [
            Call(sequence, _text(name), _text(axis), num_bytes, began, bool(done))
            for sequence, num_bytes, began, done, axis, name in rows
            if sequence
        ]
        calls[lane] = sorted(found, key=lambda call: call.sequence)
    return Flight(process_id, calls)


def diagnose(flights: Mapping[int, Flight]) -> str:
    """Lines for a person: in which collective ranks wait, and which rank has not come to it."""
    lines = []
    for lane in LANES:
        by_rank = {rank: f.calls[lane] for rank, f in flights.items() if f.calls.get(lane)}
        lines += _disagreement(by_rank) or _waiting(by_rank, flights)
    return "\n".join(lines) or "no rank waits in a collective: the stacks say where each one is"


def _disagreement(by_rank: Mapping[int, list[Call]]) -> list[str]:
    """The first call that is another one on another rank."""
    numbers = sorted({call.sequence for calls in by_rank.values() for call in calls})
    named = {rank: {call.sequence: call for call in calls} for rank, calls in by_rank.items()}
    for number in numbers:
        calls = {rank: known[number] for rank, known in named.items() if number in known}
        if len({call.name for call in calls.values()}) > 1:
            described = ", ".join(f"`{call.name}` on rank {rank}" for rank, call in calls.items())
            return [f"the ranks do not make the same calls: call {number} is {described}"]
    return []


def _waiting(by_rank: Mapping[int, list[Call]], flights: Mapping[int, Flight]) -> list[str]:
    last = {rank: calls[-1] for rank, calls in by_rank.items()}
    inside = {rank: call for rank, call in last.items() if not call.is_done}
    if not inside:
        return []
    front = max(inside.values(), key=lambda call: call.sequence)
    seconds = time.time() - front.start
    waiting = [rank for rank, call in inside.items() if call.sequence == front.sequence]
    lines = [f"{_ranks(waiting)} in {front} for {seconds:.0f} s"]
    # A rank may be stopped inside the call as well as before it.
    states = {rank: process_state(flights[rank].process_id) for rank in last}
    frozen = [rank for rank in waiting if states[rank] != RUNNING]
    lines += [f"rank {rank}, {states[rank]}, is in it and does not move" for rank in frozen]
    for rank, call in last.items():
        if call.sequence < front.sequence:
            state = states[rank]
            ended = "done" if call.is_done else "not done"
            lines.append(f"rank {rank}, {state}, has not come to it: its last was {call}, {ended}")
    if len(waiting) == len(last) and not frozen:
        lines.append("all ranks are in it: the network, or data that do not fit together")
    return lines


def _ranks(ranks: list[int]) -> str:
    listed = ", ".join(map(str, ranks))
    return f"rank {listed} is" if len(ranks) == 1 else f"ranks {listed} are"


def process_state(process_id: int) -> str:
    """In a word, where the system tells (Linux, same machine)."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "not on this machine or dead"
    except OSError:
        return "in an unknown state"
    return {"T": "stopped", "Z": "dead", "D": "waiting for a disk"}.get(state, RUNNING)


def _text(field_bytes: bytes) -> str:
    return field_bytes.rstrip(b"\0").decode("utf-8", "replace")

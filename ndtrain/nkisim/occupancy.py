"""How much of SBUF and PSUM a kernel needs at once, from the lifetimes in its stream.

A tensor is live from its first to its last instruction. The bytes of the live tensors are a lower
bound for every allocator, so a kernel that exceeds the capacity here cannot be placed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ndtrain.nkisim.errors import CapacityError
from ndtrain.nkisim.target import NUM_PARTITIONS, PSUM_BYTES, Target
from ndtrain.nkisim.trace import Stream, TensorInfo


@dataclass(frozen=True)
class Occupancy:
    """Live tensors over time.

    steps: (instruction index, live bytes per partition, averaged over the 128 partitions).
    """

    space: str
    steps: tuple[tuple[int, int], ...]
    tensors: tuple[TensorInfo, ...]

    @property
    def peak(self) -> int:
        return max((b for _, b in self.steps), default=0)

    @property
    def peak_at(self) -> int:
        return max(self.steps, key=lambda s: s[1], default=(0, 0))[0]

    def live_at(self, index: int) -> list[TensorInfo]:
        """Live at instruction `index`, largest first."""
        live = [t for t in self.tensors if t.first_use <= index <= t.last_use]
        return sorted(live, key=lambda t: -t.row_bytes * t.partitions)


def measure(stream: Stream, space: str, granule: int = 1) -> Occupancy:
    """The occupancy of "sbuf" or "psum" over the instructions of `stream`.

    granule: tensors without an address take a multiple of so many bytes per partition.
    """
    used = tuple(t for t in stream.tensors if t.space == space and t.first_use >= 0)
    free = [t for t in used if t.address is None]
    events: dict[int, int] = {}
    for t in free:
        weight = -(-t.row_bytes // granule) * granule * t.partitions
        events[t.first_use] = events.get(t.first_use, 0) + weight
        events[t.last_use + 1] = events.get(t.last_use + 1, 0) - weight
    placed = _placed_bytes([t for t in used if t.address is not None])
    for index, change in placed.items():
        events[index] = events.get(index, 0) + change
    steps, total = [], 0
    for index in sorted(events):
        total += events[index]
        steps.append((index, -(-total // NUM_PARTITIONS)))
    return Occupancy(space, tuple(steps), used)


def _placed_bytes(tensors: list[TensorInfo]) -> dict[int, int]:
    """Changes of the bytes that tensors at explicit addresses cover; overlaps count once."""
    bounds: dict[int, tuple[list[TensorInfo], list[TensorInfo]]] = {}
    for t in tensors:
        bounds.setdefault(t.first_use, ([], []))[0].append(t)
        bounds.setdefault(t.last_use + 1, ([], []))[1].append(t)
    live: dict[int, TensorInfo] = {}
    changes, before = {}, 0
    for index in sorted(bounds):
        begun, ended = bounds[index]
        for t in ended:
            live.pop(t.ident, None)
        for t in begun:
            live[t.ident] = t
        now = _union(list(live.values()))
        changes[index] = now - before
        before = now
    return changes


def _union(tensors: list[TensorInfo]) -> int:
    """Bytes covered by byte ranges, taken over all 128 partitions of each range."""
    spans = sorted((t.address[1], t.address[1] + t.row_bytes) for t in tensors if t.address)
    total, reach = 0, 0
    for start, end in spans:
        total += max(0, end - max(start, reach))
        reach = max(reach, end)
    return total * NUM_PARTITIONS


def check(stream: Stream, space: str, target: Target) -> None:
    """Refuse a kernel whose live tensors exceed the memory."""
    capacity = PSUM_BYTES if space == "psum" else target.sbuf_bytes
    found = measure(stream, space)
    if found.peak <= capacity:
        return
    at = found.peak_at
    live = found.live_at(at)
    largest = ", ".join(f"`{t.name}` {list(t.shape)} {t.dtype}" for t in live[:4])
    raise CapacityError(
        f"{len(live)} live tensors need {found.peak} bytes per partition of {space.upper()}, "
        f"{target.name} has {capacity}; the largest are {largest}",
        stream[at].where,
        "shorten lifetimes, use smaller tiles or fewer buffers",
    )

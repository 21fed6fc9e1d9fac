"""What all collectives of `nki.collectives` share: the group, the meeting of its ranks, refusals.

Every rank of a group has to issue the same collectives in the same order. Reductions run in rank
order in float32, so a run is repeatable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndtrain.nkisim import checks, ops
from ndtrain.nkisim.dtypes import from_float32, to_float32
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.machine import Core, Taint, current
from ndtrain.nkisim.objects import NKIObject
from ndtrain.nkisim.ops import Op
from ndtrain.nkisim.tensor import NkiTensor

_REDUCTIONS = (ops.add, ops.minimum, ops.maximum)
_HBM = ("private_hbm", "shared_hbm")
Chunk = tuple[np.ndarray, Taint]


@dataclass
class ReplicaGroup(NKIObject):
    """Groups of ranks that communicate: a sequence of disjoint sequences of rank numbers."""

    groups: Any = ()

    def of(self, rank: int) -> tuple[int, ...]:
        """The group that `rank` belongs to, in ring order."""
        flat = [r for group in self.groups for r in group]
        if len(flat) != len(set(flat)):
            raise HardwareLimit(f"replica groups {self.groups} overlap")
        for group in self.groups:
            if rank in group:
                return tuple(group)
        raise HardwareLimit(f"rank {rank} is in none of the replica groups {self.groups}")


def put(core: Core, dst: NkiTensor, data: np.ndarray, taint: Taint) -> None:
    core.store(dst, data, taint, raw=True)


def check_memory(srcs: Sequence[NkiTensor], dsts: Sequence[NkiTensor], *, sbuf: bool) -> None:
    if len(srcs) != len(dsts) or not srcs:
        raise HardwareLimit(f"`srcs` has {len(srcs)} tensors, `dsts` has {len(dsts)}")
    spaces = {"hbm" if t.space in _HBM else t.space for t in (*srcs, *dsts)}
    if len(spaces) > 1:
        raise HardwareLimit(f"a collective mixes {' and '.join(sorted(spaces))}")
    if spaces == {"sbuf"} and not sbuf:
        raise HardwareLimit("this collective works on HBM tensors only")
    if spaces == {"sbuf"} and len(srcs) > 1:
        raise HardwareLimit("several tensors in one collective have to be in HBM")
    for src, dst in zip(srcs, dsts, strict=True):
        if src.dtype != dst.dtype:
            raise HardwareLimit(f"source is {src.dtype}, destination is {dst.dtype}")
    for src in srcs:
        for dst in dsts:
            if _overlap(src, dst):
                raise HardwareLimit(
                    f"source and destination share memory (`{dst.name}`)",
                    help="neighbours read the source while the destination fills; use two buffers",
                )


def check_size(src: NkiTensor, dst: NkiTensor) -> None:
    if src.size != dst.size:
        raise HardwareLimit(
            f"source {list(src.shape)} and destination {list(dst.shape)} differ in size"
        )


def check_parts(src: NkiTensor, ranks: int) -> None:
    if src.shape[0] % ranks:
        raise HardwareLimit(f"source {list(src.shape)} has no {ranks} equal parts along dim 0")


def _overlap(a: NkiTensor, b: NkiTensor) -> bool:
    if a.storage is None or a.storage is not b.storage:
        return False
    p0, p1, b0, b1 = a.storage.extent(a.window, a.dtype)
    q0, q1, c0, c1 = a.storage.extent(b.window, b.dtype)
    return p0 < q1 and q0 < p1 and b0 < c1 and c0 < b1


def exchange(
    opcode: str, group: tuple[int, ...], srcs: Sequence[NkiTensor], dsts: Sequence[NkiTensor],
    deliver: Callable[[Core, list[list[Chunk]]], None], *, check: Callable[[], None],
    params: dict[str, Any], priority: int | None, name: str | None,
) -> None:  # fmt: skip
    """Issue a collective: meet the group, then `deliver(core, chunks of every rank)`."""
    core = current()

    def all_checks() -> None:
        for rank in group:
            if not 0 <= rank < core.program.num_ranks:
                raise HardwareLimit(f"rank {rank} of {core.program.num_ranks}",
                                    help="run the kernel with nkisim.run_ranks")  # fmt: skip
        if priority is not None:
            checks.generation(core.target, 4, "a collective's `priority`")
        check()

    def execute() -> None:
        deliver(core, core.program.collective(core, group, opcode, srcs, dsts))

    core.issue(
        opcode, "cc", writes={f"dst{i or ''}": t for i, t in enumerate(dsts)},
        reads={f"src{i or ''}": t for i, t in enumerate(srcs)}, execute=execute,
        check=all_checks, params={"group": group} | params, name=name, meets=True,
    )  # fmt: skip


def own_place(replica_group: ReplicaGroup) -> tuple[tuple[int, ...], int]:
    """The group of the calling rank, and its place in it."""
    rank = current().rank
    group = replica_group.of(rank)
    return group, group.index(rank)


def reduced(core: Core, dst: NkiTensor, op: Op, parts: list[Chunk]) -> Chunk:
    """The parts folded in their order, in float32, rounded once to `dst`."""
    total = to_float32(parts[0][0])
    for data, _ in parts[1:]:
        total = op.fn(total, to_float32(data))
    marks = [t for _, t in parts if t is not None]
    taint = np.logical_or.reduce(marks) if marks else None
    return from_float32(total, dst.dtype, core.precise), taint


def check_op(op: Op) -> None:
    if op not in _REDUCTIONS:
        raise HardwareLimit(f"`op` = {op}; collectives reduce with add, minimum or maximum")

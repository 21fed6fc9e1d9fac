"""`nki.collectives` between simulated ranks.

Every rank of a group has to issue the same collectives in the same order. Reductions run in rank
order in float32, so a run is repeatable.
`collective_permute_implicit` sends odd channels round the ring the other way: a kernel may not
assume a direction, it has to ask for the rank whose data it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndtrain.nkisim import checks, ops
from ndtrain.nkisim.dtypes import from_float32, to_float32
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.isa_elementwise import operator
from ndtrain.nkisim.machine import Core, Taint, current
from ndtrain.nkisim.objects import NKIObject
from ndtrain.nkisim.ops import Op
from ndtrain.nkisim.registers import VirtualRegister, value_of
from ndtrain.nkisim.tensor import NkiTensor

_REDUCTIONS = (ops.add, ops.minimum, ops.maximum)
_MAX_CHANNELS = 4
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


def _put(core: Core, dst: NkiTensor, data: np.ndarray, taint: Taint) -> None:
    core.store(dst, data, taint, raw=True)


def _check_memory(srcs: Sequence[NkiTensor], dsts: Sequence[NkiTensor], *, sbuf: bool) -> None:
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


def _check_size(src: NkiTensor, dst: NkiTensor) -> None:
    if src.size != dst.size:
        raise HardwareLimit(
            f"source {list(src.shape)} and destination {list(dst.shape)} differ in size"
        )


def _check_parts(src: NkiTensor, ranks: int) -> None:
    if src.shape[0] % ranks:
        raise HardwareLimit(f"source {list(src.shape)} has no {ranks} equal parts along dim 0")


def _overlap(a: NkiTensor, b: NkiTensor) -> bool:
    if a.storage is None or a.storage is not b.storage:
        return False
    p0, p1, b0, b1 = a.storage.extent(a.window, a.dtype)
    q0, q1, c0, c1 = a.storage.extent(b.window, b.dtype)
    return p0 < q1 and q0 < p1 and b0 < c1 and c0 < b1


def _exchange(
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


def _mine(replica_group: ReplicaGroup) -> tuple[tuple[int, ...], int]:
    rank = current().rank
    group = replica_group.of(rank)
    return group, group.index(rank)


def all_gather(
    srcs: list[NkiTensor], dsts: list[NkiTensor], replica_group: ReplicaGroup,
    collective_dim: int, priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    group, _ = _mine(replica_group)

    def check() -> None:
        _check_memory(srcs, dsts, sbuf=True)
        _check_dim(srcs[0], collective_dim, gather=True)
        for src, dst in zip(srcs, dsts, strict=True):
            wanted = list(src.shape)
            wanted[collective_dim] *= len(group)
            if dst.size != src.size * len(group) or (dst.on_chip and list(dst.shape) != wanted):
                raise HardwareLimit(f"destination has shape {list(dst.shape)}, not {wanted}")

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for i, dst in enumerate(dsts):
            parts = [rank[i] for rank in chunks]
            data = np.concatenate([p for p, _ in parts], axis=collective_dim)
            _put(core, dst, data, _join_taint(parts, collective_dim))

    _exchange("all_gather", group, srcs, dsts, deliver, check=check,
              params={"dim": collective_dim}, priority=priority, name=name)  # fmt: skip


def _check_dim(src: NkiTensor, dim: int, *, gather: bool) -> None:
    if src.space == "sbuf" and src.ndim != 2:
        raise HardwareLimit("collectives on SBUF work on 2-D tensors")
    allowed = (0, 1) if gather and src.space == "sbuf" else (0,)
    if dim not in allowed:
        raise HardwareLimit(f"`collective_dim` {dim}; supported here: {allowed}")


def _join_taint(parts: list[Chunk], axis: int) -> Taint:
    if all(t is None for _, t in parts):
        return None
    return np.concatenate([np.zeros(d.shape, bool) if t is None else t for d, t in parts], axis)


def _reduced(core: Core, dst: NkiTensor, op: Op, parts: list[Chunk]) -> Chunk:
    total = to_float32(parts[0][0])
    for data, _ in parts[1:]:
        total = op.fn(total, to_float32(data))
    marks = [t for _, t in parts if t is not None]
    taint = np.logical_or.reduce(marks) if marks else None
    return from_float32(total, dst.dtype, core.precise), taint


def _check_op(op: Op) -> None:
    if op not in _REDUCTIONS:
        raise HardwareLimit(f"`op` = {op}; collectives reduce with add, minimum or maximum")


def all_reduce(
    srcs: list[NkiTensor], dsts: list[NkiTensor], replica_group: ReplicaGroup, op: Any,
    priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    group, _ = _mine(replica_group)
    token = operator(op, "op")

    def check() -> None:
        _check_op(token)
        _check_memory(srcs, dsts, sbuf=True)
        for src, dst in zip(srcs, dsts, strict=True):
            _check_size(src, dst)

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for i, dst in enumerate(dsts):
            _put(core, dst, *_reduced(core, dst, token, [rank[i] for rank in chunks]))

    _exchange("all_reduce", group, srcs, dsts, deliver, check=check, params={"op": token},
              priority=priority, name=name)  # fmt: skip


def reduce_scatter(
    srcs: list[NkiTensor], dsts: list[NkiTensor], replica_group: ReplicaGroup,
    collective_dim: int, op: Any, priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    group, mine = _mine(replica_group)
    token = operator(op, "op")

    def check() -> None:
        _check_op(token)
        _check_memory(srcs, dsts, sbuf=True)
        _check_dim(srcs[0], collective_dim, gather=False)
        for src, dst in zip(srcs, dsts, strict=True):
            _check_parts(src, len(group))
            if src.size != dst.size * len(group):
                raise HardwareLimit(
                    f"source {list(src.shape)} over {len(group)} ranks does not make "
                    f"{list(dst.shape)}"
                )

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for i, dst in enumerate(dsts):
            parts = [_part(rank[i], mine, len(group)) for rank in chunks]
            _put(core, dst, *_reduced(core, dst, token, parts))

    _exchange("reduce_scatter", group, srcs, dsts, deliver, check=check, priority=priority,
              params={"op": token, "dim": collective_dim}, name=name)  # fmt: skip


def _part(chunk: Chunk, index: int, count: int) -> Chunk:
    data, taint = chunk
    rows = data.shape[0] // count
    cut = slice(index * rows, (index + 1) * rows)
    return data[cut], None if taint is None else taint[cut]


def all_to_all(
    srcs: list[NkiTensor], dsts: list[NkiTensor], replica_group: ReplicaGroup,
    collective_dim: int, priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    group, mine = _mine(replica_group)

    def check() -> None:
        _check_memory(srcs, dsts, sbuf=False)
        _check_dim(srcs[0], collective_dim, gather=False)
        for src, dst in zip(srcs, dsts, strict=True):
            _check_parts(src, len(group))
            _check_size(src, dst)

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for i, dst in enumerate(dsts):
            parts = [_part(rank[i], mine, len(group)) for rank in chunks]
            _put(core, dst, np.concatenate([d for d, _ in parts]), _join_taint(parts, 0))

    _exchange("all_to_all", group, srcs, dsts, deliver, check=check,
              params={"dim": collective_dim}, priority=priority, name=name)  # fmt: skip


def collective_permute(
    srcs: list[NkiTensor], dsts: list[NkiTensor], source_target_pairs: list[tuple[int, int]],
    priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    core = current()
    everyone = tuple(range(core.program.num_ranks))
    pairs = [(int(a), int(b)) for a, b in source_target_pairs]

    def check() -> None:
        _check_memory(srcs, dsts, sbuf=False)
        if len(srcs) != 1:
            raise HardwareLimit(f"`srcs` has {len(srcs)} tensors; this collective moves one")
        _check_size(srcs[0], dsts[0])
        if any(rank not in everyone for pair in pairs for rank in pair):
            raise HardwareLimit(f"`source_target_pairs` {pairs} of {len(everyone)} ranks")
        for side in (0, 1):
            ranks = [p[side] for p in pairs]
            if len(ranks) != len(set(ranks)):
                raise HardwareLimit(f"`source_target_pairs` {pairs} name a rank twice")

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for source, target in pairs:
            if target == core.rank:
                _put(core, dsts[0], *chunks[source][0])

    _exchange("collective_permute", everyone, srcs, dsts, deliver, check=check,
              params={"pairs": pairs}, priority=priority, name=name)  # fmt: skip


def _step(channel: int) -> int:
    """Which way round the ring a channel sends."""
    return 1 if channel % 2 == 0 else -1


def _flat(by_channel: list[list[NkiTensor]], what: str) -> list[NkiTensor]:
    if any(len(inner) != 1 for inner in by_channel):
        numbers = [len(inner) for inner in by_channel]
        raise HardwareLimit(f"`{what}` has {numbers} tensors; each channel moves one")
    return [inner[0] for inner in by_channel]


def _check_channels(channel_ids: list[int], *operands: list[NkiTensor]) -> None:
    counts = [len(tensors) for tensors in operands]
    if len(set(counts)) > 1:
        raise HardwareLimit(f"sources and destinations have {counts} channels")
    count = counts[0]
    if list(channel_ids) != list(range(count)) or not 1 <= count <= _MAX_CHANNELS:
        raise HardwareLimit(
            f"`channel_ids` {list(channel_ids)} for {count} tensors",
            help=f"use 0, 1, ... without gaps, at most {_MAX_CHANNELS}",
        )


def collective_permute_implicit(
    srcs_by_channel: list[list[NkiTensor]], dsts_by_channel: list[list[NkiTensor]],
    replica_group: ReplicaGroup, channel_ids: Sequence[int] = (0,), priority: int | None = None,
    name: str | None = None,
) -> None:  # fmt: skip
    group, mine = _mine(replica_group)
    srcs = _flat(srcs_by_channel, "srcs_by_channel")
    dsts = _flat(dsts_by_channel, "dsts_by_channel")

    def check() -> None:
        _check_channels(list(channel_ids), srcs, dsts)
        for src, dst in zip(srcs, dsts, strict=True):
            _check_memory([src], [dst], sbuf=True)
            _check_size(src, dst)

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for channel, dst in enumerate(dsts):
            source = (mine - _step(channel)) % len(group)
            _put(core, dst, *chunks[source][channel])

    _exchange("collective_permute_implicit", group, srcs, dsts, deliver, check=check,
              params={"channels": len(srcs)}, priority=priority, name=name)  # fmt: skip


def collective_permute_implicit_reduce(
    srcs0_by_channel: list[list[NkiTensor]], srcs1_by_channel: list[list[NkiTensor]],
    dsts_by_channel: list[list[NkiTensor]], replica_group: ReplicaGroup, op: Any,
    channel_ids: Sequence[int] = (0,), priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    group, mine = _mine(replica_group)
    left = _flat(srcs0_by_channel, "srcs0_by_channel")
    right = _flat(srcs1_by_channel, "srcs1_by_channel")
    dsts = _flat(dsts_by_channel, "dsts_by_channel")
    token = operator(op, "op")

    def check() -> None:
        _check_op(token)
        _check_channels(list(channel_ids), left, right, dsts)
        for a, b, dst in zip(left, right, dsts, strict=True):
            _check_memory([a], [dst], sbuf=True)
            _check_memory([b], [dst], sbuf=True)
            _check_size(a, dst)
            _check_size(b, dst)

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for channel, dst in enumerate(dsts):
            sent = chunks[(mine - _step(channel)) % len(group)]
            pair = [sent[channel], sent[channel + len(dsts)]]
            _put(core, dst, *_reduced(core, dst, token, pair))

    _exchange("collective_permute_implicit_reduce", group, [*left, *right], dsts, deliver,
              check=check, params={"op": token, "channels": len(dsts)}, priority=priority,
              name=name)  # fmt: skip


def collective_permute_implicit_current_processing_rank_id(
    iteration_id: Any, replica_group: ReplicaGroup, channel_id: int = 0, name: str | None = None
) -> VirtualRegister:
    """Position in the group of the rank whose data this iteration processes."""
    group, mine = _mine(replica_group)
    return VirtualRegister((mine - _step(channel_id) * value_of(iteration_id)) % len(group))


def rank_id(name: str | None = None) -> VirtualRegister:
    return VirtualRegister(current().rank)

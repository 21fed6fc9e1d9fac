"""`nki.collectives` between simulated ranks, but for the rings of `ring_permute.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim.collective_exchange import (
    Chunk,
    ReplicaGroup,
    check_memory,
    check_op,
    check_parts,
    check_size,
    exchange,
    own_place,
    put,
    reduced,
)
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.isa_elementwise import operator
from ndtrain.nkisim.machine import Core, Taint, current
from ndtrain.nkisim.registers import VirtualRegister
from ndtrain.nkisim.tensor import NkiTensor


def all_gather(
    srcs: list[NkiTensor], dsts: list[NkiTensor], replica_group: ReplicaGroup,
    collective_dim: int, priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    group, _ = own_place(replica_group)

    def check() -> None:
        check_memory(srcs, dsts, sbuf=True)
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
            put(core, dst, data, _join_taint(parts, collective_dim))

    exchange("all_gather", group, srcs, dsts, deliver, check=check,
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


def all_reduce(
    srcs: list[NkiTensor], dsts: list[NkiTensor], replica_group: ReplicaGroup, op: Any,
    priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    group, _ = own_place(replica_group)
    token = operator(op, "op")

    def check() -> None:
        check_op(token)
        check_memory(srcs, dsts, sbuf=True)
        for src, dst in zip(srcs, dsts, strict=True):
            check_size(src, dst)

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for i, dst in enumerate(dsts):
            put(core, dst, *reduced(core, dst, token, [rank[i] for rank in chunks]))

    exchange("all_reduce", group, srcs, dsts, deliver, check=check, params={"op": token},
              priority=priority, name=name)  # fmt: skip


def reduce_scatter(
    srcs: list[NkiTensor], dsts: list[NkiTensor], replica_group: ReplicaGroup,
    collective_dim: int, op: Any, priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    group, mine = own_place(replica_group)
    token = operator(op, "op")

    def check() -> None:
        check_op(token)
        check_memory(srcs, dsts, sbuf=True)
        _check_dim(srcs[0], collective_dim, gather=False)
        for src, dst in zip(srcs, dsts, strict=True):
            check_parts(src, len(group))
            if src.size != dst.size * len(group):
                raise HardwareLimit(
                    f"source {list(src.shape)} over {len(group)} ranks does not make "
                    f"{list(dst.shape)}"
                )

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for i, dst in enumerate(dsts):
            parts = [_part(rank[i], mine, len(group)) for rank in chunks]
            put(core, dst, *reduced(core, dst, token, parts))

    exchange("reduce_scatter", group, srcs, dsts, deliver, check=check, priority=priority,
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
    group, mine = own_place(replica_group)

    def check() -> None:
        check_memory(srcs, dsts, sbuf=False)
        _check_dim(srcs[0], collective_dim, gather=False)
        for src, dst in zip(srcs, dsts, strict=True):
            check_parts(src, len(group))
            check_size(src, dst)

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for i, dst in enumerate(dsts):
            parts = [_part(rank[i], mine, len(group)) for rank in chunks]
            put(core, dst, np.concatenate([d for d, _ in parts]), _join_taint(parts, 0))

    exchange("all_to_all", group, srcs, dsts, deliver, check=check,
              params={"dim": collective_dim}, priority=priority, name=name)  # fmt: skip


def collective_permute(
    srcs: list[NkiTensor], dsts: list[NkiTensor], source_target_pairs: list[tuple[int, int]],
    priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    core = current()
    everyone = tuple(range(core.program.num_ranks))
    pairs = [(int(a), int(b)) for a, b in source_target_pairs]

    def check() -> None:
        check_memory(srcs, dsts, sbuf=False)
        if len(srcs) != 1:
            raise HardwareLimit(f"`srcs` has {len(srcs)} tensors; this collective moves one")
        check_size(srcs[0], dsts[0])
        if any(rank not in everyone for pair in pairs for rank in pair):
            raise HardwareLimit(f"`source_target_pairs` {pairs} of {len(everyone)} ranks")
        for side in (0, 1):
            ranks = [p[side] for p in pairs]
            if len(ranks) != len(set(ranks)):
                raise HardwareLimit(f"`source_target_pairs` {pairs} name a rank twice")

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for source, target in pairs:
            if target == core.rank:
                put(core, dsts[0], *chunks[source][0])

    exchange("collective_permute", everyone, srcs, dsts, deliver, check=check,
              params={"pairs": pairs}, priority=priority, name=name)  # fmt: skip


def rank_id(name: str | None = None) -> VirtualRegister:
    return VirtualRegister(current().rank)

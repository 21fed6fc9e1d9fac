"""The implicit permutes of `nki.collectives`: each channel sends to a neighbour in a ring.

Odd channels go round the other way: a kernel may not assume a direction, it has to ask for the rank
whose data it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ndtrain.nkisim.collective_exchange import (
    Chunk,
    ReplicaGroup,
    check_memory,
    check_op,
    check_size,
    exchange,
    own_place,
    put,
    reduced,
)
from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.isa_elementwise import operator
from ndtrain.nkisim.machine import Core
from ndtrain.nkisim.registers import VirtualRegister, value_of
from ndtrain.nkisim.tensor import NkiTensor

_MAX_CHANNELS = 4


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
    group, mine = own_place(replica_group)
    srcs = _flat(srcs_by_channel, "srcs_by_channel")
    dsts = _flat(dsts_by_channel, "dsts_by_channel")

    def check() -> None:
        _check_channels(list(channel_ids), srcs, dsts)
        for src, dst in zip(srcs, dsts, strict=True):
            check_memory([src], [dst], sbuf=True)
            check_size(src, dst)

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for channel, dst in enumerate(dsts):
            source = (mine - _step(channel)) % len(group)
            put(core, dst, *chunks[source][channel])

    exchange("collective_permute_implicit", group, srcs, dsts, deliver, check=check,
              params={"channels": len(srcs)}, priority=priority, name=name)  # fmt: skip


def collective_permute_implicit_reduce(
    srcs0_by_channel: list[list[NkiTensor]], srcs1_by_channel: list[list[NkiTensor]],
    dsts_by_channel: list[list[NkiTensor]], replica_group: ReplicaGroup, op: Any,
    channel_ids: Sequence[int] = (0,), priority: int | None = None, name: str | None = None,
) -> None:  # fmt: skip
    group, mine = own_place(replica_group)
    left = _flat(srcs0_by_channel, "srcs0_by_channel")
    right = _flat(srcs1_by_channel, "srcs1_by_channel")
    dsts = _flat(dsts_by_channel, "dsts_by_channel")
    token = operator(op, "op")

    def check() -> None:
        check_op(token)
        _check_channels(list(channel_ids), left, right, dsts)
        for a, b, dst in zip(left, right, dsts, strict=True):
            check_memory([a], [dst], sbuf=True)
            check_memory([b], [dst], sbuf=True)
            check_size(a, dst)
            check_size(b, dst)

    def deliver(core: Core, chunks: list[list[Chunk]]) -> None:
        for channel, dst in enumerate(dsts):
            sent = chunks[(mine - _step(channel)) % len(group)]
            pair = [sent[channel], sent[channel + len(dsts)]]
            put(core, dst, *reduced(core, dst, token, pair))

    exchange("collective_permute_implicit_reduce", group, [*left, *right], dsts, deliver,
              check=check, params={"op": token, "channels": len(dsts)}, priority=priority,
              name=name)  # fmt: skip


def collective_permute_implicit_current_processing_rank_id(
    iteration_id: Any, replica_group: ReplicaGroup, channel_id: int = 0, name: str | None = None
) -> VirtualRegister:
    """Position in the group of the rank whose data this iteration processes."""
    group, mine = own_place(replica_group)
    return VirtualRegister((mine - _step(channel_id) * value_of(iteration_id)) % len(group))

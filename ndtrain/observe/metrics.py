"""Throughput, FLOPs, MFU and communication time of a step, as pure functions.

    flops = step_flops(shape, num_tokens=8192, num_pairs=causal_pairs(512) * 16)
    mfu = model_flops_utilization(flops, step_ms=812.0, peak_flops=4 * 95e12)
    times = communication_times(recorder.drain())

The FLOPs of a step, forward and backward (a multiply-add counts as two):

    6 * N * tokens  +  12 * num_layers * num_heads * head_dim * pairs

N: weights that multiply every token (`Shape.num_matmul_parameters`): projections, SwiGLU, output
head. The embedding lookup multiplies nothing and is left out; a tied matrix counts as the head.
pairs: (query, key) pairs that really attend, so causal attention is half of the square and
packed documents do not see each other. Recomputed activations are not counted: MFU measures the
model's work, not the machine's.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ndtrain.core.spans import Span
from ndtrain.models.qwen3.shape import Shape

COMMUNICATION_TRACKS = ("gather", "scatter", "dma")
COMPUTE_TRACK = "compute"

# `overlap` of a step's record: operation -> name -> value, of the operations that moved anything
# and of the whole `step`. Made by `overlap_figures.py`; means over the ranks.
OVERLAP_FIGURES = {
    "compute_ms": "time in which the operation computed",
    "comm_ms": "time in which its communication was under way",
    "exposed_comm_ms": "the part of it in which nothing computed, this operation or another",
    "overlap_efficiency": "time hidden over what could hide: the smaller of comm_ms and the compute"
    " beside it, a linear's own and the step's for what computes nothing; 1 is all, null is nothing"
    " to hide, above 1 is help from others",
    "compute_slowdown": "compute with communication beside it over the median of the same kind with"
    " none, where both occur; null where not",
    "comm_bytes": "sent by a rank",
    "hidden_bytes": "sent while compute ran, each transfer at its mean rate",
    "arrived_bytes": "of any operation, while this one computed, counted by the kernel: what shows"
    " that overlap is active; null but in the first steps of a run that overlaps, on Linux",
    "extra_bytes": "memory that the form holds above the blocking one, by its schedule",
}


def tokens_per_second(num_tokens: int, step_ms: float) -> float:
    return num_tokens / (step_ms / 1e3)


def causal_pairs(sequence_length: int) -> int:
    """(query, key) pairs of one causal sequence: each token attends to itself and those before."""
    return sequence_length * (sequence_length + 1) // 2


def packed_pairs(positions: np.ndarray) -> int:
    """(query, key) pairs of packed documents, of any shape of integer `positions`.

    Positions restart at 0 with each document, so a token at position p attends to p + 1 keys.
    """
    return int(positions.sum(dtype=np.int64)) + positions.size


def step_flops(shape: Shape, num_tokens: int, num_pairs: int) -> int:
    """FLOPs of forward and backward over `num_tokens` tokens with `num_pairs` attended pairs.

    A pair costs a head 2 * head_dim in QK^T and as much in PV; the backward pass doubles both.
    """
    attention = 12 * shape.num_layers * shape.num_heads * shape.head_dim * num_pairs
    return 6 * shape.num_matmul_parameters() * num_tokens + attention


def model_flops_utilization(flops: float, step_ms: float, peak_flops: float | None) -> float | None:
    """MFU in [0, 1]: FLOPs of the step over what the devices could have done in its time.

    peak_flops: FLOP/s of all the devices that shared the step. None (unknown) gives None.
    """
    if peak_flops is None:
        return None
    return flops / (step_ms / 1e3) / peak_flops


class CommunicationTimes(NamedTuple):
    """Milliseconds in which a collective or copy was under way, by the names of the metrics."""

    comm_ms: float
    exposed_comm_ms: float
    overlap_pct: float | None  # None without communication: 0 of 0 is no percentage


def communication_times(spans: Iterable[Span]) -> CommunicationTimes:
    """Communication time of one rank, and how much of it no compute hid.

    Simultaneous transfers count once. Communication is exposed while no `compute` span runs, so
    a compute span must not enclose a blocking collective; phases of the step are on `host`.
    """
    communication: list[tuple[int, int]] = []
    compute: list[tuple[int, int]] = []
    for span in spans:
        if span.track in COMMUNICATION_TRACKS:
            communication.append((span.start_ns, span.stop_ns))
        elif span.track == COMPUTE_TRACK:
            compute.append((span.start_ns, span.stop_ns))
    communication, compute = union(communication), union(compute)
    comm_ns = sum(stop - start for start, stop in communication)
    hidden_ns = intersection_ns(communication, compute)
    return CommunicationTimes(
        comm_ms=comm_ns / 1e6,
        exposed_comm_ms=(comm_ns - hidden_ns) / 1e6,
        overlap_pct=100 * hidden_ns / comm_ns if comm_ns else None,
    )


def union(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint intervals in ascending order that cover the same instants."""
    disjoint: list[tuple[int, int]] = []
    for start, stop in sorted(intervals):
        if disjoint and start <= disjoint[-1][1]:
            disjoint[-1] = (disjoint[-1][0], max(disjoint[-1][1], stop))
        else:
            disjoint.append((start, stop))
    return disjoint


def difference(
    first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """What is in the first and not in the second; each side disjoint and ascending."""
    rest: list[tuple[int, int]] = []
    j = 0
    for start, stop in first:
        while j < len(second) and second[j][1] <= start:
            j += 1
        k = j
        while k < len(second) and second[k][0] < stop:
            if second[k][0] > start:
                rest.append((start, second[k][0]))
            start = max(start, second[k][1])
            k += 1
        if start < stop:
            rest.append((start, stop))
    return rest


def intersection_ns(first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]]) -> int:
    """Length of the instants that lie in both; each side disjoint and ascending."""
    total = i = j = 0
    while i < len(first) and j < len(second):
        start, stop = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        total += max(0, stop - start)
        if first[i][1] <= second[j][1]:
            i += 1
        else:
            j += 1
    return total

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
    communication, compute = _union(communication), _union(compute)
    comm_ns = sum(stop - start for start, stop in communication)
    hidden_ns = _intersection_ns(communication, compute)
    return CommunicationTimes(
        comm_ms=comm_ns / 1e6,
        exposed_comm_ms=(comm_ns - hidden_ns) / 1e6,
        overlap_pct=100 * hidden_ns / comm_ns if comm_ns else None,
    )


def _union(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint intervals in ascending order that cover the same instants."""
    union: list[tuple[int, int]] = []
    for start, stop in sorted(intervals):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], stop))
        else:
            union.append((start, stop))
    return union


def _intersection_ns(first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]]) -> int:
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

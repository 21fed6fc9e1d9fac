"""What this machine's link and compute really do, measured between the ranks of one axis.

    link = measure_link(runtime, runtime.mesh.tensor)        # collective over the axis

On CPUs moving bytes costs compute: `stolen_s_per_byte` is by how much a product gets longer for
each byte that moves beside it.
"""

import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ndtrain.runtime.mesh import Axis
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.streams import Pending

_SMALL_BYTES = 1024
_LARGE_BYTES = 2 * 10**6
_ROUNDS = 5


@dataclass(frozen=True)
class Link:
    latency_s: float  # of a hop of almost nothing, as its caller sees it
    bytes_per_s: float
    stolen_s_per_byte: float


def measure_link(runtime: Runtime, axis: Axis) -> Link:
    """Medians of a few rounds; about half a second on a link of 1 Gbit/s."""
    small = torch.zeros(_SMALL_BYTES, dtype=torch.uint8)
    large = torch.zeros(_LARGE_BYTES, dtype=torch.uint8)
    latency_s = median(_hop_seconds(runtime, axis, small) for _ in range(4 * _ROUNDS))
    large_s = median(_hop_seconds(runtime, axis, large) for _ in range(_ROUNDS))
    transfer_s = max(large_s - latency_s, 1e-9)
    alone, beside = [], []
    for _ in range(_ROUNDS):  # taking turns, so that a slow moment meets both
        alone.append(_product_seconds(runtime, axis, None, large_s))
        beside.append(_product_seconds(runtime, axis, large, large_s))
    stolen_s = median(b - a for a, b in zip(alone, beside, strict=True))
    return Link(latency_s, _LARGE_BYTES / transfer_s, max(0.0, stolen_s) / _LARGE_BYTES)


def _hop_seconds(runtime: Runtime, axis: Axis, x: Tensor) -> float:
    runtime.collectives.barrier(axis, "measure")
    start_ns = time.perf_counter_ns()
    _hop(runtime, axis, x).wait()
    return (time.perf_counter_ns() - start_ns) / 1e9


def _product_seconds(runtime: Runtime, axis: Axis, x: Tensor | None, seconds: float) -> float:
    """Products for about twice as long as the hop beside them takes."""
    a = torch.full((256, 256), 0.5)
    runtime.collectives.barrier(axis, "measure")
    pending = None if x is None else _hop(runtime, axis, x)
    start_ns = time.perf_counter_ns()
    for _ in range(_num_products(seconds)):
        torch.mm(a, a)
    elapsed_s = (time.perf_counter_ns() - start_ns) / 1e9
    if pending is not None:
        pending.wait()
    return elapsed_s


def _num_products(seconds: float) -> int:
    # 256^3 multiply-adds take about a millisecond on a slow core; exactness does not matter.
    return max(4, min(200, round(2 * seconds / 1e-3)))


def _hop(runtime: Runtime, axis: Axis, x: Tensor) -> Pending:
    stream = runtime.stream_of("gather", axis)
    return stream.submit("measure", lambda c: c.permute(x, axis, 1, "measure", "gather"))

"""The rates that this process really reaches with its threads: of matmuls, and of memory.

measure_matmul_peak("fp32")     # FLOP/s: what MFU on a CPU refers to
measure_memory_rate()           # bytes/s read plus written
"""

import time
from statistics import median

import torch

from ndtrain.runtime.dtypes import DTYPES

# A product shorter than this measures its launch; a longer one only takes time.
_LONG_ENOUGH_S = 0.02
_LARGEST_SIZE = 4096


def measure_matmul_peak(dtype_name: str, seconds: float = 0.3) -> float:
    """Best FLOP/s of square matmuls in about `seconds`, with the threads in force.

    dtype_name: fp32 or bf16. The best and not the mean: a peak is what the machine can do when
    nothing disturbs it. Where ranks share a machine, all should measure at the same time.
    """
    dtype = DTYPES[dtype_name]
    with torch.inference_mode():
        size = 256
        while size < _LARGEST_SIZE and _matmul_seconds(size, dtype) < _LONG_ENOUGH_S:
            size *= 2
        best_s = _matmul_seconds(size, dtype)
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            best_s = min(best_s, _matmul_seconds(size, dtype))
    return 2 * size**3 / best_s


def _matmul_seconds(size: int, dtype: torch.dtype) -> float:
    # Ordinary numbers: denormals and NaN have other speeds.
    a, b = torch.full((2, size, size), 0.5, dtype=dtype).unbind()
    product = torch.empty(size, size, dtype=dtype)
    start_ns = time.perf_counter_ns()
    torch.mm(a, b, out=product)
    return (time.perf_counter_ns() - start_ns) / 1e9


def measure_memory_rate() -> float:
    """Median of a few copies that are larger than a cache."""
    source = torch.ones(8 * 2**20)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        start_ns = time.perf_counter_ns()
        target.copy_(source)
        seconds.append((time.perf_counter_ns() - start_ns) / 1e9)
    return 2 * source.nbytes / median(seconds)

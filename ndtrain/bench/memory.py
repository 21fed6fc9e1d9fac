"""Peak memory of a contestant's steps above what the process had before the model was built.

Memory is the resident set, as Linux accounts it: VmRSS before, VmHWM during the steps, from
/proc/self/status. A rehearsal with a tiny model comes first, so that libraries, thread stacks and
connections are in the baseline and weights, gradients and activations are above it. The C library
is told to map large blocks one by one, so that what is freed leaves the resident set: else the
figure is that of its fragments. Run it in a fresh process for each contestant: the heap of an
earlier one would hide pages of a later one.
"""

import contextlib
import ctypes
import gc
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from ndtrain.bench.contestant import Contestant
from ndtrain.bench.workload import Workload

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def can_measure_memory() -> bool:
    return _STATUS.exists() and _RESET.exists()


def peak_memory_bytes(kind: type[Contestant], workload: Workload, num_steps: int = 3) -> int:
    """Bytes of the rank that needs most, on every rank of the process group alike."""
    _map_large_blocks()
    rehearsal = kind()
    rehearsal.setup(tiny(workload))
    rehearsal.step()
    del rehearsal
    _return_freed_memory()
    before = _status_bytes("VmRSS")

    contestant = kind()
    contestant.setup(workload)
    _return_freed_memory()
    _RESET.write_text("5")  # man proc: resets the peak to the present size
    for _ in range(num_steps):
        contestant.step()
    above = torch.tensor(_status_bytes("VmHWM") - before)
    dist.all_reduce(above, op=dist.ReduceOp.MAX)
    return int(above)


def tiny(workload: Workload) -> Workload:
    """The same kinds of operations on the same ranks, in next to no memory."""
    ranks = workload.num_ranks
    shape = replace(
        workload.shape,
        num_layers=1,
        hidden_size=64,
        intermediate_size=64 * ranks,
        num_heads=2 * ranks,
        num_kv_heads=ranks,
        head_dim=16,
        vocab_size=64 * ranks,
    )
    return replace(workload, shape=shape, sequence_length=16 * ranks, batch_size=1)


def _map_large_blocks() -> None:
    """Blocks of 1 MiB and more get pages of their own; glibc otherwise raises that limit to 32."""
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such habit
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, 2**20)


def _return_freed_memory() -> None:
    """Gives freed small blocks back to the system, where the C library can."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024  # the file says kB and means KiB
    raise LookupError(f"{_STATUS} has no {field}")

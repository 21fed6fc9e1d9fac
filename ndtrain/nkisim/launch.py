"""Starts a kernel: ranks and their cores, arguments in, results out.

`run(kernel, *arrays, cores=2, target="gen3")` returns a `Run` with the outputs, the instruction
streams and the memory occupancy; `run_ranks` runs the kernel on several ranks that communicate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndtrain.nkisim import arrays, elementwise, frontend, occupancy, order
from ndtrain.nkisim.errors import HardwareLimit, NkiSimError, UninitializedError
from ndtrain.nkisim.machine import Options, located
from ndtrain.nkisim.memory import Allocator
from ndtrain.nkisim.program import Program
from ndtrain.nkisim.running import executing, is_running
from ndtrain.nkisim.scheduler import Scheduler
from ndtrain.nkisim.target import Target, platform_target, target_named
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Stream

MAX_CORES = 2


@dataclass(frozen=True)
class Run:
    """The result of one kernel on one rank."""

    outputs: Any
    streams: tuple[Stream, ...]
    target: Target

    @property
    def stream(self) -> Stream:
        """The instructions of core 0."""
        return self.streams[0]

    def occupancy(
        self, space: str = "sbuf", core: int = 0, granule: int = 1
    ) -> occupancy.Occupancy:
        """Which tensors are live when, and how many bytes per partition they take.

        granule: round each tensor up to so many bytes; PSUM_BANK_BYTES (2048) gives each PSUM
        tensor whole banks, an upper bound beside the lower one.
        """
        return occupancy.measure(self.streams[core], space, granule)


def run(
    kernel: Callable[..., Any], *args: Any, cores: int | None = None,
    target: str | Target | None = None, options: Options | None = None, **kwargs: Any,
) -> Run:  # fmt: skip
    """Simulate `kernel(*args, **kwargs)` on one rank.

    args: NumPy or torch arrays become HBM tensors and are updated in place when the kernel writes
    them; everything else is passed on. cores: 2 for LNC2; None is a launch without a grid.
    target: "gen2", "trn2", ...; default from NEURON_PLATFORM_TARGET_OVERRIDE.
    Raises NkiSimError for everything that the hardware or the compiler refuses.
    """
    return run_ranks(kernel, [(args, kwargs)], cores=cores, target=target, options=options)[0]


def run_ranks(
    kernel: Callable[..., Any], calls: Sequence[tuple[tuple, dict[str, Any]]], *,
    cores: int | None = None, target: str | Target | None = None, options: Options | None = None,
) -> list[Run]:  # fmt: skip
    """Simulate the kernel on `len(calls)` ranks, each with its own (args, kwargs)."""
    chosen = target if isinstance(target, Target) else (
        target_named(target) if target else platform_target()
    )  # fmt: skip
    settings = options or Options()
    count = cores or 1
    if not 1 <= count <= MAX_CORES:
        raise HardwareLimit(f"kernel[{count}]: a logical core has 1 or 2 physical cores")
    function = frontend.function_of(kernel)
    version = getattr(kernel, "api", "0.6")
    if settings.check_python:
        frontend.check(function, version)
    allocator = Allocator(1 if settings.precise else 4)
    scheduler = Scheduler(count * len(calls))
    programs = [
        Program(chosen, settings, allocator, count, rank, len(calls), scheduler,
                0 if cores is None else 1, version, elementwise.apply)
        for rank in range(len(calls))
    ]  # fmt: skip
    bound = [arrays.bind(p, *call) for p, call in zip(programs, calls, strict=True)]

    def worker(i: int) -> Any:
        program = programs[i // count]
        args, kwargs = bound[i // count].arguments
        with executing(program.cores[i % count]):
            try:
                return function(*args, **kwargs)
            except NkiSimError as error:
                raise located(error) from None

    results = scheduler.run(worker)
    return [
        _finish(programs[r], bound[r], results[r * count : (r + 1) * count],
                getattr(kernel, "schedule", ()))
        for r in range(len(calls))
    ]  # fmt: skip


def _finish(program: Program, bound: arrays.Bound, results: list[Any], schedule: Any) -> Run:
    for core in program.cores:
        order.scheduled(core.stream, schedule)
        order.check(core.stream)
        for space in ("sbuf", "psum"):
            occupancy.check(core.stream, space, program.target)
    arrays.visit(results[0], functools.partial(_check_output_space, program))
    if program.options.arithmetic:
        arrays.visit(results[0], _check_output)
        bound.write_back()
    outputs = arrays.to_host(results[0], program.options, bound.wants_torch)
    return Run(outputs, tuple(c.stream for c in program.cores), program.target)


def _check_output_space(program: Program, tensor: NkiTensor) -> None:
    allowed = ("shared_hbm", "private_hbm") if program.api == "0.2" else ("shared_hbm",)
    if tensor.space not in allowed:
        assert tensor.storage is not None
        raise HardwareLimit(f"the kernel returns `{tensor.name}`, which is in {tensor.space}",
                            tensor.storage.info.line, "results are in nl.shared_hbm")  # fmt: skip


def _check_output(tensor: NkiTensor) -> None:
    assert tensor.storage is not None
    taint = tensor.storage.read_taint(tensor.window, tensor.dtype)
    if taint is not None:
        first = tuple(int(i) for i in np.argwhere(taint)[0])
        raise UninitializedError(
            f"{int(taint.sum())} of {tensor.size} elements of output `{tensor.name}` come from "
            f"memory that nothing wrote; the first is at {first}",
            tensor.storage.info.line,
            "write every element of the tile (DMA, memset) before it is used",
        )


class Kernel:
    """What `@nki.jit` makes: callable, `kernel[2]` for LNC2, `with_schedule` for extra order."""

    def __init__(
        self, function: Callable[..., Any], grid: int | None = None, schedule: Any = (),
        api: str = "0.6",
    ) -> None:  # fmt: skip
        self.function = function
        self.grid = grid
        self.schedule = schedule
        self.api = api
        functools.update_wrapper(self, function)

    def __getitem__(self, grid: Any) -> Kernel:
        size = grid[0] if isinstance(grid, tuple) and len(grid) == 1 else grid
        if not isinstance(size, int):
            raise HardwareLimit(f"kernel[{grid!r}]: the launch grid is the number of cores")
        return Kernel(self.function, size, self.schedule, self.api)

    def with_schedule(self, schedule: Any) -> Kernel:
        return Kernel(self.function, self.grid, schedule, self.api)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_running():
            return self.function(*args, **kwargs)
        return run(self, *args, cores=self.grid, **kwargs).outputs

"""A run of one kernel: ranks, the cores of each, shared HBM, and what comes out.

`run(kernel, *arrays, cores=2, target="gen3")` returns a `Run` with the outputs, the instruction
streams and the memory occupancy; `run_ranks` runs the kernel on several ranks that communicate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndtrain.nkisim import arrays, frontend, hazards, occupancy, order
from ndtrain.nkisim.dtypes import as_dtype, from_float32
from ndtrain.nkisim.errors import (
    HardwareLimit,
    LanguageError,
    NkiSimError,
    RaceError,
    UninitializedError,
)
from ndtrain.nkisim.machine import Core, Options, executing, located
from ndtrain.nkisim.memory import Allocator, Storage
from ndtrain.nkisim.scheduler import Scheduler
from ndtrain.nkisim.target import Target, platform_target, target_named
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction, Stream, TensorInfo

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


class Program:
    """The cores of one rank and the HBM that they share."""

    def __init__(
        self, target: Target, options: Options, allocator: Allocator, num_cores: int, rank: int,
        num_ranks: int, scheduler: Scheduler, grid_ndim: int, api: str,
    ) -> None:  # fmt: skip
        self.target = target
        self.options = options
        self.allocator = allocator
        self.num_cores = num_cores
        self.rank = rank
        self.num_ranks = num_ranks
        self.scheduler = scheduler
        self.grid_ndim = grid_ndim
        self.api = api
        self.cores = [Core(self, i, rank) for i in range(num_cores)]
        self._shared: list[Storage] = []
        self._shared_used = [0] * num_cores
        self._meetings = [0] * num_cores
        self._pipes: dict[tuple[int, int], int] = {}
        self._collectives: dict[tuple[int, tuple[int, ...]], int] = {}

    def worker(self, core: Core) -> int:
        return self.rank * self.num_cores + core.index

    def shared_hbm(self, core: Core, info: TensorInfo) -> Storage:
        """The n-th shared allocation is the same memory on every core."""
        at = self._shared_used[core.index]
        self._shared_used[core.index] += 1
        if at == len(self._shared):
            self._shared.append(self.allocator.private(info))
        found = self._shared[at]
        if found.shape != info.shape or found.dtype != info.dtype:
            raise LanguageError(
                f"core {core.index} allocates shared tensor {at} as {info.shape} {info.dtype}, "
                f"another core as {found.shape} {found.dtype}",
                help="control flow has to be the same on both cores",
            )
        core.stream.tensors[-1] = found.info
        return found

    def constant(self, array: np.ndarray) -> NkiTensor:
        """`nl.shared_constant`: defined from the start."""
        return self.wrap(array, "constant")

    def wrap(self, array: np.ndarray, name: str) -> NkiTensor:
        """An HBM tensor with the values of `array`."""
        dtype = as_dtype(array.dtype)
        shape = array.shape or (1,)
        info = self.allocator.describe("shared_hbm", shape, dtype, name, "")
        storage = self.allocator.private(info, defined=True)
        tensor = NkiTensor(shape, dtype, storage)
        wide = array.astype(np.float32) if dtype.is_float else array
        values = array if self.options.precise else from_float32(wide, dtype, precise=False)
        storage.view(tensor.window, dtype)[...] = values.reshape(shape)
        for core in self.cores:
            core.stream.tensors.append(info)
        return tensor

    def before(
        self, core: Core, instruction: Instruction, writes: dict[str, NkiTensor],
        reads: dict[str, NkiTensor],
    ) -> None:  # fmt: skip
        """Race detection on memory that both cores see."""
        if self.num_cores > 1 and instruction.engine != "cc":
            hazards.note(core, instruction, writes, reads)

    def barrier(self, core: Core, data: NkiTensor) -> None:
        """Both cores arrive; accesses to the memory of `data` before it happen before those after.

        Other memory stays unordered: the barrier holds back one engine and what depends on `data`.
        """
        self._meet_cores(core, data, "core_barrier")

    def _meet_cores(self, core: Core, data: NkiTensor, what: str) -> None:
        at = self._meetings[core.index]
        self._meetings[core.index] += 1
        named = self.scheduler.meet(
            self.worker(core), (what, self.rank, at), self.num_cores, data.storage,
            lambda payloads: list(payloads.values()),
            f"rank {self.rank} core {core.index} at {what} {at}",
        )  # fmt: skip
        if any(storage is not data.storage for storage in named):
            raise RaceError(
                "the two cores name different tensors: "
                + " and ".join(f"`{storage.name}`" for storage in named),
                help="both cores have to pass the same shared tensor",
            )
        hazards.ordered(data)

    def collective(
        self, core: Core, group: tuple[int, ...], opcode: str, srcs: Sequence[NkiTensor],
        dsts: Sequence[NkiTensor],
    ) -> list[list[tuple[np.ndarray, Any]]]:  # fmt: skip
        """Meet the other ranks of `group`; (values, taint) of their `srcs` in group order.

        Two cores that name the same shared HBM issue one collective of the logical core, which
        waits for both. Otherwise each core meets the cores of its own index.
        """
        at = self._collectives.get((core.index, group), 0)
        self._collectives[core.index, group] = at + 1
        joint = self.num_cores > 1 and self._same_on_both(core, group, at, srcs, dsts)
        key = ("collective", group, None if joint else core.index, at)
        chunks = [(core.raw(s).copy(), core.taint(s)) for s in srcs]
        issued = (opcode, _described(core.stream[-1]))
        count = len(group) * (self.num_cores if joint else 1)
        sent = self.scheduler.meet(
            self.worker(core), key, count, (self.rank, core.index, issued, chunks),
            lambda p: sorted(p.values(), key=lambda q: (group.index(q[0]), q[1])),
            f"rank {self.rank} core {core.index} at {opcode}",
        )  # fmt: skip
        _check_issued(sent)
        return [found[3] for found in sent if not joint or found[1] == 0]

    def _same_on_both(
        self, core: Core, group: tuple[int, ...], at: int, srcs: Sequence[NkiTensor],
        dsts: Sequence[NkiTensor],
    ) -> bool:  # fmt: skip
        """True when both cores issue this collective on the same memory; then it orders them."""
        mine = [(t.storage.ident if t.storage else 0, t.window) for t in srcs]

        def compare(payloads: dict[int, Any]) -> bool:
            first, second = payloads.values()
            same = first == second and srcs[0].space == "shared_hbm"
            for tensor in (*srcs, *dsts) if same else ():
                hazards.ordered(tensor)
            return same

        what = f"rank {self.rank} core {core.index} at a collective"
        key = ("join", self.rank, group, at)
        same = self.scheduler.meet(self.worker(core), key, self.num_cores, mine, compare, what)
        if not same:
            roles = {f"src{i}": t for i, t in enumerate(srcs)}
            results = {f"dst{i}": t for i, t in enumerate(dsts)}
            hazards.note(core, core.stream[-1], results, roles)
        return bool(same)

    def sendrecv(
        self, core: Core, src: NkiTensor, dst: NkiTensor, target: int, source: int, pipe: int
    ) -> None:
        payload = (core.index, target, src.dtype, core.raw(src).copy(), core.taint(src))
        at = self._pipes.get((core.index, pipe), 0)
        self._pipes[core.index, pipe] = at + 1
        key = ("sendrecv", self.rank, pipe, at)
        what = f"core {core.index} at sendrecv pipe {pipe}"
        sent = self.scheduler.meet(
            self.worker(core), key, self.num_cores, payload, lambda p: list(p.values()), what
        )
        found = [p for p in sent if p[0] == source and p[1] == core.index]
        if not found:
            raise HardwareLimit(f"core {source} sends nothing to core {core.index} on pipe {pipe}")
        _, _, dtype, data, taint = found[0]
        if data.shape != dst.shape or dtype != dst.dtype:
            raise HardwareLimit(
                f"core {source} sends {list(data.shape)} {dtype}, "
                f"`dst` is {list(dst.shape)} {dst.dtype}"
            )
        core.store(dst, data, taint, raw=True)


def _described(instruction: Instruction) -> str:
    """What all ranks of a collective have to agree on, beside its name."""
    params = {k: v for k, v in instruction.params.items() if k != "group"}
    tensors = [f"{list(read.shape)} {read.dtype}" for read in instruction.reads]
    return ", ".join([*tensors, *(f"{k} {v}" for k, v in params.items())])


def _check_issued(sent: list[tuple[int, int, tuple[str, str], Any]]) -> None:
    """Refuse ranks that met with different collectives, or with the same one on other terms."""
    names = {name for _, _, (name, _), _ in sent}
    if len(names) > 1:
        raise HardwareLimit(
            "the ranks of a group issue different collectives: " + ", ".join(sorted(names))
        )
    terms = {described for _, _, (_, described), _ in sent}
    if len(terms) > 1:
        raise HardwareLimit(
            "the ranks of a group issue it differently: " + " against ".join(sorted(terms)),
            help="shapes, types and parameters are the same on every rank",
        )


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
                0 if cores is None else 1, version)
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
        from ndtrain.nkisim.machine import running

        if running():
            return self.function(*args, **kwargs)
        return run(self, *args, cores=self.grid, **kwargs).outputs

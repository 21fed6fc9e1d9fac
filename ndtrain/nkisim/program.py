"""The cores of one rank, the HBM that they share, and how they meet one another and other ranks.

`launch.py` makes a Program for each rank of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ndtrain.nkisim import hazards
from ndtrain.nkisim.dtypes import as_dtype, from_float32
from ndtrain.nkisim.errors import HardwareLimit, LanguageError, RaceError
from ndtrain.nkisim.machine import Core, Options
from ndtrain.nkisim.memory import Allocator, Storage
from ndtrain.nkisim.scheduler import Scheduler
from ndtrain.nkisim.target import Target
from ndtrain.nkisim.tensor import NkiTensor
from ndtrain.nkisim.trace import Instruction, TensorInfo


class Program:
    """The cores of one rank and the HBM that they share."""

    def __init__(
        self, target: Target, options: Options, allocator: Allocator, num_cores: int, rank: int,
        num_ranks: int, scheduler: Scheduler, grid_ndim: int, api: str,
        call_operator: Callable[..., NkiTensor],
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
        self.call_operator = call_operator
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

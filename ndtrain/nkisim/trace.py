"""The instruction stream: what ran, on which engine, on which memory, from which line.

Records hold no tensor data, so a stream of a long kernel stays small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ndtrain.nkisim.dtypes import DType
from ndtrain.nkisim.errors import ApiError

ON_CHIP = ("sbuf", "psum")


@dataclass(eq=False, slots=True)
class TensorInfo:
    """One allocation: `nl.ndarray`, an input or a constant. Sizes on the device.

    first_use, last_use: indices of the first and the last instruction that touched it, -1: none.
    """

    ident: int
    space: str
    name: str
    shape: tuple[int, ...]
    dtype: DType
    partitions: int
    row_bytes: int
    address: tuple[int, int] | None
    line: str
    first_use: int = -1
    last_use: int = -1


def reach(start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """The first and the last element of a pattern, whose steps may be negative."""
    steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    return start + sum(s for s in steps if s < 0), start + sum(s for s in steps if s > 0)


def view_extent(
    tensor: TensorInfo, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, size: int
) -> tuple[int, int, int, int]:
    """(first partition, end partition, first byte, end byte) of a view, strides in elements."""
    if tensor.space not in ON_CHIP:
        low, high = reach(offset, shape, strides)
        return 0, 1, low * size, (high + 1) * size
    row = tensor.row_bytes // size
    first, free = divmod(offset, row)
    low, high = reach(free, shape[1:], strides[1:])
    rows = (strides[0] // row if shape[0] > 1 else 1) * (shape[0] - 1)
    start, base = tensor.address or (0, 0)
    return (
        start + first,
        start + first + rows + 1,
        base + low * size,
        base + (high + 1) * size,
    )


@dataclass(eq=False, slots=True)
class Operand:
    """One tensor operand: a view of `tensor` under the role it has in the instruction."""

    role: str
    tensor: TensorInfo
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: DType

    def extent(self) -> tuple[int, int, int, int]:
        """(first partition, end partition, first byte, end byte) that the view can touch."""
        return view_extent(self.tensor, self.shape, self.strides, self.offset, self.dtype.itemsize)

    def __str__(self) -> str:
        return f"{self.role}={self.tensor.name}{list(self.shape)}:{self.dtype}@{self.tensor.space}"


@dataclass(eq=False, slots=True)
class Instruction:
    """One instruction in program order of its core."""

    index: int
    opcode: str
    engine: str
    writes: tuple[Operand, ...]
    reads: tuple[Operand, ...]
    params: dict[str, Any]
    line: tuple[str, int]
    name: str = ""
    loop: int = 0
    """Which dynamic loop it is in, 0 for none."""
    after: list[int] = field(default_factory=list)
    """Indices of instructions that the kernel ordered before this one itself."""

    def depends_on(self, *producers: Instruction) -> Instruction:
        """Run after `producers`; returns itself."""
        for producer in producers:
            if producer.loop != self.loop:
                raise ApiError(
                    f"{self.opcode} cannot depend on {producer.opcode} of another dynamic loop",
                    self.where,
                    "both have to be at the same nesting of nl.fori_loop and nl.while_loop",
                )
            self.after.append(producer.index)
        return self

    @property
    def where(self) -> str:
        return f"{self.line[0]}:{self.line[1]}"

    def __str__(self) -> str:
        operands = " ".join(str(o) for o in (*self.writes, *self.reads))
        params = " ".join(f"{k}={v}" for k, v in self.params.items())
        return f"{self.index:6d} {self.engine:7s} {self.opcode:22s} {operands} {params}".rstrip()


class Stream:
    """The instructions of one core, and the tensors that they touch."""

    def __init__(self, core: int = 0, rank: int = 0) -> None:
        self.core = core
        self.rank = rank
        self.instructions: list[Instruction] = []
        self.tensors: list[TensorInfo] = []

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions)

    def __len__(self) -> int:
        return len(self.instructions)

    def __getitem__(self, index: int) -> Instruction:
        return self.instructions[index]

    def counts(self) -> Counter[str]:
        """How often each instruction ran."""
        return Counter(i.opcode for i in self.instructions)

    def engines(self) -> Counter[str]:
        """How many instructions each engine ran."""
        return Counter(i.engine for i in self.instructions)

"""The instruction stream: what ran, on which engine, on which memory, from which line.

Records hold no tensor data, so a stream of a long kernel stays small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ndtrain.nkisim.dtypes import DType


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


@dataclass(eq=False, slots=True)
class Operand:
    """One tensor operand: a view of `tensor` under the role it has in the instruction."""

    role: str
    tensor: TensorInfo
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: DType

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
    after: list[int] = field(default_factory=list)
    """Indices of instructions that the kernel ordered before this one itself."""

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

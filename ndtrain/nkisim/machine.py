"""One NeuronCore: every instruction of a kernel passes through `Core.issue`.

`issue` finds the kernel's source line, checks the operands, appends a record to the instruction
stream and, unless arithmetic is off, executes. Numerics: operands widen to float32, results round
once when they are written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ndtrain.nkisim import checks, running
from ndtrain.nkisim.dtypes import DType, from_float32, to_float32
from ndtrain.nkisim.errors import HardwareLimit, NkiSimError
from ndtrain.nkisim.memory import Allocator, Arena
from ndtrain.nkisim.ops import Op
from ndtrain.nkisim.registers import value_of
from ndtrain.nkisim.target import NUM_PARTITIONS, PSUM_BYTES, Target, platform_target
from ndtrain.nkisim.tensor import NkiTensor, check_pattern
from ndtrain.nkisim.trace import Instruction, Operand, Stream

if TYPE_CHECKING:
    from ndtrain.nkisim.program import Program

Tensors = dict[str, NkiTensor]
Taint = np.ndarray | None
_WRAPPER = "call"  # the name of every wrapper in this package: no word for a user
_PACKAGE = str(Path(__file__).resolve().parent)


@dataclass(frozen=True)
class Options:
    """How a run is simulated.

    arithmetic: False keeps checks and the instruction stream and computes nothing.
    precise: False holds low-precision floats in float32 (NKI_PRECISE_FP=0).
    check_python: refuse Python that the NKI compiler does not accept.
    """

    arithmetic: bool = True
    precise: bool = True
    check_python: bool = True


class Core:
    """One physical NeuronCore with its memories, registers and instruction stream."""

    def __init__(self, program: Program, core: int, rank: int) -> None:
        self.program = program
        self.index = core
        self.rank = rank
        self.target: Target = program.target
        self.options: Options = program.options
        self.arithmetic = program.options.arithmetic
        self.precise = program.options.precise
        self.allocator: Allocator = program.allocator
        self.stream = Stream(core, rank)
        self.scalar_accumulator = np.zeros(NUM_PARTITIONS, np.float32)
        self.vector_accumulator = np.zeros(NUM_PARTITIONS, np.float32)
        self.no_reorder = 0
        self.ordered_from = 0
        self.loops = [0]
        self.num_loops = 0
        self.scalar_taint = np.zeros(NUM_PARTITIONS, bool)
        self.vector_taint = np.zeros(NUM_PARTITIONS, bool)
        self._arenas: dict[str, Arena] = {}
        self._lines: dict[CodeType, bool] = {}

    @property
    def api(self) -> str:
        return self.program.api

    def call_operator(self, operator: Op, *args: Any, **kwargs: Any) -> NkiTensor:
        """`nl.operator(...)`."""
        return self.program.call_operator(operator, *args, **kwargs)

    def arena(self, space: str) -> Arena:
        if space not in self._arenas:
            row = PSUM_BYTES if space == "psum" else self.target.sbuf_bytes
            self._arenas[space] = Arena(space, row, self.allocator.scale)
        return self._arenas[space]

    def line(self) -> tuple[str, int]:
        """The innermost source line outside this package."""
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            inside = self._lines.get(code)
            if inside is None:
                inside = self._lines[code] = code.co_filename.startswith(_PACKAGE)
            if not inside:
                return code.co_filename, frame.f_lineno
            frame = frame.f_back  # type: ignore[assignment]
        return "<unknown>", 0

    def allocate(
        self,
        shape: tuple[int, ...],
        dtype: DType,
        space: str,
        name: str,
        address: tuple[int, int] | None,
    ) -> NkiTensor:
        """`nl.ndarray`."""
        file, number = self.line()
        where = f"{file}:{number}"
        try:
            checks.allocation(self.target, shape, dtype, space, address)
        except NkiSimError as error:
            raise _located(error, where, "nl.ndarray") from None
        info = self.allocator.describe(space, shape, dtype, name, where, address)
        self.stream.tensors.append(info)
        if address is not None:
            storage = self.allocator.at(self.arena(space), info)
        elif space == "shared_hbm":
            storage = self.program.shared_hbm(self, info)
        else:
            storage = self.allocator.private(info)
        return NkiTensor(shape, dtype, storage)

    def issue(
        self,
        opcode: str,
        engine: str,
        *,
        writes: Tensors,
        reads: Tensors,
        execute: Callable[[], None],
        check: Callable[[], None] | None = None,
        params: dict[str, Any] | None = None,
        name: str | None = None,
        meets: bool = False,
    ) -> Instruction:
        """Check, record and run one instruction; returns its record.

        meets: it waits for other cores, which has to happen with arithmetic off too.
        """
        line = self.line()
        try:
            checks.operands(self.target, opcode, engine, writes, reads)
            if check is not None:
                check()
            instruction = self._record(opcode, engine, writes, reads, params or {}, line, name)
            self.program.before(self, instruction, writes, reads)
            for tensor in reads.values():
                self._check_alias(tensor)
            if self.arithmetic or meets:
                with np.errstate(all="ignore"):
                    execute()
            for tensor in writes.values():
                self._note_write(tensor)
        except NkiSimError as error:
            raise _located(error, f"{line[0]}:{line[1]}", opcode) from None
        return instruction

    def _record(
        self, opcode: str, engine: str, writes: Tensors, reads: Tensors, params: dict[str, Any],
        line: tuple[str, int], name: str | None,
    ) -> Instruction:  # fmt: skip
        index = len(self.stream.instructions)
        out = tuple(self._operand(role, t, index) for role, t in writes.items())
        into = tuple(self._operand(role, t, index) for role, t in reads.items())
        instruction = Instruction(
            index, opcode, engine, out, into, params, line, name or "", self.loops[-1]
        )
        if self.no_reorder and self.ordered_from < index:
            instruction.after.append(index - 1)
        self.stream.instructions.append(instruction)
        return instruction

    @staticmethod
    def _operand(role: str, tensor: NkiTensor, index: int) -> Operand:
        storage = tensor.storage
        assert storage is not None
        info = storage.info
        if info.first_use < 0:
            info.first_use = index
        info.last_use = index
        return Operand(role, info, tensor.shape, tensor.strides, tensor.offset, tensor.dtype)

    @staticmethod
    def _check_alias(tensor: NkiTensor) -> None:
        storage = tensor.storage
        assert storage is not None
        if storage.arena is not None:
            storage.arena.check_read(storage, storage.extent(tensor.window, tensor.dtype))

    def resolve(self, tensor: NkiTensor) -> NkiTensor:
        """The view with its run-time scalar index applied."""
        found = tensor.indirection
        if found is None or found.vector:
            return tensor
        at = self.scalar(found.index)
        if not 0 <= at < found.limit:
            raise HardwareLimit(
                f"run-time index {at} of `{tensor.name}` is outside its dimension of {found.limit}"
            )
        shape, strides, offset = tensor.window
        moved = (shape, strides, offset + at * found.stride)
        view = NkiTensor(shape, tensor.dtype, tensor.storage, strides=strides, offset=moved[2])
        check_pattern(view)
        return view

    def scalar(self, value: Any) -> int:
        """A run-time integer: a register, or a tensor of one element."""
        if isinstance(value, NkiTensor):
            if value.size != 1:
                raise HardwareLimit(
                    f"a scalar index has shape {list(value.shape)}, not one element"
                )
            if not self.arithmetic:
                return 0  # unknown without values; element 0 keeps the access in range
            return int(self.raw(value).reshape(-1)[0])
        return value_of(value)

    def raw(self, tensor: NkiTensor) -> np.ndarray:
        """The elements as they are stored (a view)."""
        if tensor.indirection is not None:
            tensor = self.resolve(tensor)
        assert tensor.storage is not None
        return tensor.storage.view(tensor.window, tensor.dtype)

    def load(self, tensor: NkiTensor) -> np.ndarray:
        """The elements as float32."""
        return to_float32(self.raw(tensor))

    def taint(self, tensor: NkiTensor) -> Taint:
        """Where `tensor` is undefined, None when nowhere."""
        if tensor.indirection is not None:
            tensor = self.resolve(tensor)
        assert tensor.storage is not None
        return tensor.storage.read_taint(tensor.window, tensor.dtype)

    def store(
        self, tensor: NkiTensor, values: np.ndarray, taint: Taint = None, *, raw: bool = False
    ) -> None:
        """Write `values` (float32, or already of the stored type when `raw`), reshaped to fit."""
        if tensor.indirection is not None:
            tensor = self.resolve(tensor)
        storage = tensor.storage
        assert storage is not None
        target = storage.view(tensor.window, tensor.dtype)
        data = values if raw else from_float32(values, tensor.dtype, self.precise)
        target[...] = data if data.shape == target.shape else data.reshape(target.shape)
        if taint is not None:
            taint = np.broadcast_to(taint, values.shape).reshape(target.shape)
            taint = taint if taint.any() else None
        storage.write_taint(tensor.window, tensor.dtype, taint)
        if storage.matmul_state is not None:
            storage.matmul_view(tensor.window, tensor.dtype)[...] = 0

    @staticmethod
    def _note_write(tensor: NkiTensor) -> None:
        storage = tensor.storage
        assert storage is not None
        storage.written = True
        if storage.arena is not None:
            storage.arena.wrote(storage, storage.extent(tensor.window, tensor.dtype))


def _located(error: NkiSimError, where: str, opcode: str) -> NkiSimError:
    """The same error with the instruction and the kernel's line, unless it has them already."""
    if error.where:
        return error
    return type(error)(f"{opcode}: {error.what}", where, error.help)


def located(error: NkiSimError) -> NkiSimError:
    """The same error with the kernel's line, found in its traceback, unless it has one already."""
    if error.where:
        return error
    line, called, trace = "", "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_PACKAGE):
            line, called = f"{code.co_filename}:{trace.tb_lineno}", ""
        elif line and not called and code.co_name != _WRAPPER:
            called = code.co_name
        trace = trace.tb_next
    return _located(error, line, called.strip("_") or "kernel")


def current() -> Core:
    """The core that runs the calling kernel; NkiSimError outside one."""
    return cast(Core, running.core())


def current_target() -> Target:
    """Of the calling kernel; outside one, of the environment."""
    return current().target if running.is_running() else platform_target()

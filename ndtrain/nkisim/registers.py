"""Virtual registers: scalar values of the engine sequencers, known only at run time on the device.

The simulator knows the value, but a kernel may not: `int(register)` and `range(register)` are
refused as under the compiler's tracer. `while register:` is kept (deprecated since NKI 0.6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ndtrain.nkisim.errors import HardwareLimit
from ndtrain.nkisim.objects import NKIObject


class VirtualRegister(NKIObject):
    """A 32-bit register. `frozen`: a loop's induction variable, which may not be written."""

    def __init__(self, state: int | None = None, frozen: bool = False) -> None:
        self.state = state
        self.frozen = frozen

    @property
    def value(self) -> int:
        """The value now; an unset register may not be read."""
        if self.state is None:
            raise HardwareLimit("a register is read before anything was moved or loaded into it")
        return self.state

    def write(self, value: int) -> None:
        if self.frozen:
            raise AssertionError("the induction variable of a loop cannot be written")
        self.state = int(value)

    def __bool__(self) -> bool:
        return self.value != 0

    def __int__(self) -> int:
        raise TypeError("a register has no value while the kernel is built (int() of a register)")

    __index__ = __int__

    def __repr__(self) -> str:
        return f"VirtualRegister({self.state})"

    def _combine(self, other: Any, op: Callable[[int, int], int]) -> VirtualRegister:
        right = other.value if isinstance(other, VirtualRegister) else other
        if not isinstance(right, int):
            return NotImplemented
        return VirtualRegister(op(self.value, right))

    def __add__(self, other: Any) -> VirtualRegister:
        return self._combine(other, lambda a, b: a + b)

    __radd__ = __add__

    def __sub__(self, other: Any) -> VirtualRegister:
        return self._combine(other, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> VirtualRegister:
        return self._combine(other, lambda a, b: b - a)

    def __mul__(self, other: Any) -> VirtualRegister:
        return self._combine(other, lambda a, b: a * b)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> VirtualRegister:
        return self._combine(other, lambda a, b: a // b)

    def __mod__(self, other: Any) -> VirtualRegister:
        return self._combine(other, lambda a, b: a % b)


def value_of(value: Any) -> int:
    """An integer operand: a Python int or the value of a register."""
    return value.value if isinstance(value, VirtualRegister) else int(value)

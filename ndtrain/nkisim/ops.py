"""Operator tokens (`nl.add`, `nl.exp`, ...): what an engine computes for each, in float32.

A token is also callable in a kernel (`nl.add(a, b)`); the core that runs the kernel issues what it
stands for (`elementwise.py`).
Tables: nki/api/nki.api.shared.rst of the Neuron SDK (nki-aluop, nki-act-func).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndtrain.nkisim import running
from ndtrain.nkisim.errors import missing_in_0_2

ArrayFn = Callable[..., np.ndarray]
SQRT2 = math.sqrt(2.0)
GELU_SIGMOID = 1.702
GELU_TANH = math.sqrt(2.0 / math.pi)


@dataclass(frozen=True, eq=False)
class Op:
    """One operator.

    kind: "arith" and "bitvec" take two operands, "unary" one; "activation" runs on ScalarE only.
    fn: float32 arrays in and out (integers for "bitvec").
    identity: start value of a reduction, None where the op cannot reduce.
    activation: ScalarE has a table for it.
    """

    name: str
    kind: str
    fn: ArrayFn
    identity: float | None = None
    activation: bool = False
    ufunc: np.ufunc | None = None
    min_generation: int = 2

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        core = running.core()
        if core.api == "0.2":
            raise missing_in_0_2("a call of nki.language", self.name)
        return core.call_operator(self, *args, **kwargs)

    def __repr__(self) -> str:
        return f"nl.{self.name}"

    @property
    def is_comparison(self) -> bool:
        return self.name in COMPARISONS

    def reduce(self, values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """Fold `axes` of `values`; only for ops with an identity."""
        assert self.ufunc is not None
        return self.ufunc.reduce(values, axis=axes)


COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")


def _erf(x: np.ndarray) -> np.ndarray:
    return np.frompyfunc(math.erf, 1, 1)(x).astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _silu(x: np.ndarray) -> np.ndarray:
    return x * _sigmoid(x)


def _silu_dx(x: np.ndarray) -> np.ndarray:
    s = _sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + _erf(x / SQRT2))


def _gelu_dx(x: np.ndarray) -> np.ndarray:
    density = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return 0.5 * (1.0 + _erf(x / SQRT2)) + x * density


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + np.tanh(GELU_TANH * (x + 0.044715 * x * x * x)))


def _gelu_sigmoid(x: np.ndarray) -> np.ndarray:
    return x * _sigmoid(GELU_SIGMOID * x)


def _gelu_sigmoid_dx(x: np.ndarray) -> np.ndarray:
    s = _sigmoid(GELU_SIGMOID * x)
    return s * (1.0 + GELU_SIGMOID * x * (1.0 - s))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, np.float32(0.0))


def _mish(x: np.ndarray) -> np.ndarray:
    return x * np.tanh(_softplus(x))


def _sin(x: np.ndarray) -> np.ndarray:
    # ScalarE reduces no range: outside [-pi, pi] it extrapolates the cubic of its last table
    # entry. The cubic is the expansion at +-pi, which gives sin(9) = 27.6.
    far = np.sign(x) * (np.abs(x) - np.float32(math.pi))
    return np.where(np.abs(x) <= math.pi, np.sin(x), far * far * far / 6.0 - far)


def _abs_max(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) > np.abs(y), x, y)


def _abs_min(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.abs(y), x, y)


def _truth(fn: Callable[..., Any]) -> ArrayFn:
    return lambda *args: fn(*args).astype(np.float32)


def _shift_right(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Logical: the sign bit is not copied.
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    return np.right_shift(x.view(unsigned), np.asarray(y).astype(unsigned)).view(x.dtype)


_INF = math.inf
add = Op("add", "arith", np.add, 0.0, ufunc=np.add)
subtract = Op("subtract", "arith", np.subtract, 0.0, ufunc=np.subtract)
multiply = Op("multiply", "arith", np.multiply, 1.0, ufunc=np.multiply)
divide = Op("divide", "arith", np.divide)
maximum = Op("maximum", "arith", np.maximum, -_INF, ufunc=np.maximum)
minimum = Op("minimum", "arith", np.minimum, _INF, ufunc=np.minimum)
power = Op("power", "arith", np.power)
abs_max = Op("abs_max", "arith", _abs_max, min_generation=4)
abs_min = Op("abs_min", "arith", _abs_min, min_generation=4)
mod = Op("mod", "arith", np.mod)
fmod = Op("fmod", "arith", np.fmod)
equal = Op("equal", "arith", _truth(np.equal))
not_equal = Op("not_equal", "arith", _truth(np.not_equal))
less = Op("less", "arith", _truth(np.less))
less_equal = Op("less_equal", "arith", _truth(np.less_equal))
greater = Op("greater", "arith", _truth(np.greater))
greater_equal = Op("greater_equal", "arith", _truth(np.greater_equal))
logical_and = Op("logical_and", "arith", _truth(np.logical_and), 1.0, ufunc=np.logical_and)
logical_or = Op("logical_or", "arith", _truth(np.logical_or), 0.0, ufunc=np.logical_or)
logical_xor = Op("logical_xor", "arith", _truth(np.logical_xor), 0.0, ufunc=np.logical_xor)
logical_not = Op("logical_not", "unary", _truth(np.logical_not))
bypass = Op("bypass", "arith", lambda x, y=None: x)
average = Op("average", "arith", lambda x, y: (x + y) / 2, 0.0, ufunc=np.add)
bitwise_and = Op("bitwise_and", "bitvec", np.bitwise_and, -1, ufunc=np.bitwise_and)
bitwise_or = Op("bitwise_or", "bitvec", np.bitwise_or, 0, ufunc=np.bitwise_or)
bitwise_xor = Op("bitwise_xor", "bitvec", np.bitwise_xor, 0, ufunc=np.bitwise_xor)
left_shift = Op("left_shift", "bitvec", np.left_shift)
right_shift = Op("right_shift", "bitvec", _shift_right)
invert = Op("invert", "bitvec", lambda x, y=None: np.invert(x))
abs = Op("abs", "unary", np.abs, activation=True)
square = Op("square", "unary", np.square, activation=True)
relu = Op("relu", "unary", lambda x: np.maximum(x, np.float32(0)), activation=True)
rsqrt = Op("rsqrt", "unary", lambda x: 1.0 / np.sqrt(x), activation=True)
reciprocal = Op("reciprocal", "unary", lambda x: 1.0 / x, activation=True)


def _activation(name: str, fn: ArrayFn) -> Op:
    return Op(name, "activation", fn, activation=True)


copy = _activation("copy", lambda x: x)
exp = _activation("exp", np.exp)
log = _activation("log", np.log)
sqrt = _activation("sqrt", np.sqrt)
tanh = _activation("tanh", np.tanh)
sigmoid = _activation("sigmoid", _sigmoid)
sin = _activation("sin", _sin)
arctan = _activation("arctan", np.arctan)
sign = _activation("sign", np.sign)
erf = _activation("erf", _erf)
erf_dx = _activation("erf_dx", lambda x: np.float32(2 / math.sqrt(math.pi)) * np.exp(-x * x))
gelu = _activation("gelu", _gelu)
gelu_dx = _activation("gelu_dx", _gelu_dx)
gelu_apprx_tanh = _activation("gelu_apprx_tanh", _gelu_tanh)
gelu_apprx_sigmoid = _activation("gelu_apprx_sigmoid", _gelu_sigmoid)
gelu_apprx_sigmoid_dx = _activation("gelu_apprx_sigmoid_dx", _gelu_sigmoid_dx)
silu = _activation("silu", _silu)
silu_dx = _activation("silu_dx", _silu_dx)
softplus = _activation("softplus", _softplus)
mish = _activation("mish", _mish)
prelu = _activation("prelu", lambda x, slope=0.0: np.where(x > 0, x, slope * x))
# Functions of the language that no engine has as one instruction.
cos = Op("cos", "composite", np.cos)
tan = Op("tan", "composite", np.tan)
ceil = Op("ceil", "composite", np.ceil)
floor = Op("floor", "composite", np.floor)
trunc = Op("trunc", "composite", np.trunc)
negative = Op("negative", "composite", np.negative)

ALL: dict[str, Op] = {v.name: v for v in list(globals().values()) if isinstance(v, Op)}

# Where the table of an activation function ends; outside, the result is not defined.
ACTIVATION_RANGE: dict[str, tuple[float, float]] = {
    "log": (2.0**-64, 2.0**64),
    "sqrt": (2.0**-116, 2.0**118),
    "rsqrt": (2.0**-87, 2.0**97),
}

"""NKI data types, their host representation, and the casts that the engines perform.

A dtype is a `str` (as in the public stubs) that also knows its size on the device. Arithmetic
happens in float32: `to_float32` widens, `from_float32` rounds (nearest even; integers saturate).
In high-precision mode low-precision floats are kept in float32 and no rounding happens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ndtrain.nkisim.errors import HardwareLimit, NkiSimError

try:
    import ml_dtypes
except ModuleNotFoundError:
    raise NkiSimError(
        "the simulator needs the package ml_dtypes for bfloat16 and fp8",
        help='pip install "ndtrain[nkisim]"',
    ) from None


class DType(str):
    """One NKI dtype: equal to its name, `itemsize` bytes on the device."""

    itemsize: int
    kind: str  # "f" float, "i" signed, "u" unsigned, "b" bool, "x" packed by four
    storage: np.dtype
    min_generation: int

    def __new__(
        cls, name: str, kind: str, storage: Any, itemsize: int = 0, min_generation: int = 2
    ) -> DType:
        self = super().__new__(cls, name)
        self.kind = kind
        self.storage = np.dtype(storage)
        self.itemsize = itemsize or self.storage.itemsize
        self.min_generation = min_generation
        return self

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iub"

    @property
    def name(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple:
        return (named, (str(self),))


bool_ = DType("bool", "b", np.uint8)
int8 = DType("int8", "i", np.int8)
int16 = DType("int16", "i", np.int16)
int32 = DType("int32", "i", np.int32)
uint8 = DType("uint8", "u", np.uint8)
uint16 = DType("uint16", "u", np.uint16)
uint32 = DType("uint32", "u", np.uint32)
float16 = DType("float16", "f", np.float16)
float32 = DType("float32", "f", np.float32)
bfloat16 = DType("bfloat16", "f", ml_dtypes.bfloat16)
tfloat32 = DType("tfloat32", "f", np.float32)
# The legacy E4M3 has infinities and ends at 240 (ml_dtypes calls it float8_e4m3); the OCP one,
# E4M3FN, ends at 448 and exists from NeuronCore-v4 on.
float8_e4m3 = DType("float8_e4m3", "f", ml_dtypes.float8_e4m3)
float8_e4m3fn = DType("float8_e4m3fn", "f", ml_dtypes.float8_e4m3fn, min_generation=4)
float8_e5m2 = DType("float8_e5m2", "f", ml_dtypes.float8_e5m2)
float8_e8m0fnu = DType("float8_e8m0fnu", "f", ml_dtypes.float8_e8m0fnu, min_generation=4)
float8_e5m2_x4 = DType("float8_e5m2_x4", "x", np.uint32, min_generation=4)
float8_e4m3fn_x4 = DType("float8_e4m3fn_x4", "x", np.uint32, min_generation=4)
float4_e2m1fn_x4 = DType("float4_e2m1fn_x4", "x", np.uint16, min_generation=4)

ALL = (
    bool_, int8, int16, int32, uint8, uint16, uint32, float16, float32, bfloat16, tfloat32,
    float8_e4m3, float8_e4m3fn, float8_e5m2, float8_e8m0fnu,
    float8_e5m2_x4, float8_e4m3fn_x4, float4_e2m1fn_x4,
)  # fmt: skip
_BY_NAME: dict[str, DType] = {str(d): d for d in ALL} | {"bool_": bool_}
_LOW_PRECISION = frozenset((float16, bfloat16, tfloat32, float8_e4m3, float8_e4m3fn, float8_e5m2))
_TF32_DROPPED_BITS = 13  # float32 has 23 mantissa bits, tf32 keeps 10


def named(name: str) -> DType:
    return _BY_NAME[name]


def as_dtype(value: Any) -> DType:
    """The NKI dtype that `value` means: a DType, its name, a NumPy or a torch dtype."""
    if isinstance(value, DType):
        return value
    text = value if isinstance(value, str) else str(value)
    text = text.removeprefix("torch.").removeprefix("nl.")
    if text not in _BY_NAME:
        try:
            text = np.dtype(value).name
        except TypeError:
            text = str(value)
    if text not in _BY_NAME:
        raise HardwareLimit(
            f"{value!r} is not a data type of the NeuronCore",
            help="NKI has " + ", ".join(str(d) for d in ALL),
        )
    return _BY_NAME[text]


def host_dtype(dtype: DType, precise: bool) -> np.dtype:
    """How one element is held in host memory."""
    if not precise and dtype in _LOW_PRECISION:
        return np.dtype(np.float32)
    return dtype.storage


def to_float32(values: np.ndarray) -> np.ndarray:
    """Widen to float32, without a copy when it already is."""
    if values.dtype == np.float32:
        return values
    return values.astype(np.float32)


def round_tf32(values: np.ndarray) -> np.ndarray:
    """Round float32 to the 10 mantissa bits of tf32, to nearest even; NaN and Inf pass."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = np.uint32((1 << (_TF32_DROPPED_BITS - 1)) - 1)
    odd = (bits >> np.uint32(_TF32_DROPPED_BITS)) & np.uint32(1)
    mask = np.uint32(~((1 << _TF32_DROPPED_BITS) - 1) & 0xFFFFFFFF)
    with np.errstate(over="ignore"):
        rounded = ((bits + half + odd) & mask).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def from_float32(values: np.ndarray, dtype: DType, precise: bool) -> np.ndarray:
    """Round float32 `values` to `dtype` as the write stage of an engine does."""
    target = host_dtype(dtype, precise)
    if dtype is tfloat32 and precise:
        return round_tf32(values)
    if target.kind in "iu":
        return _saturate(values, target)
    if values.dtype == target:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(target)


def _saturate(values: np.ndarray, target: np.dtype) -> np.ndarray:
    """Round to nearest even and clip to the range of the integer type; NaN becomes 0."""
    if values.dtype.kind in "iub":
        info = np.iinfo(target)
        return np.clip(values.astype(np.int64), info.min, info.max).astype(target)
    info = np.iinfo(target)
    # float64 holds every 32-bit integer exactly, float32 does not.
    rounded = np.rint(np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=1e10, neginf=-1e10))
    return np.clip(rounded, info.min, info.max).astype(target)

"""Casts: nearest even, saturation, the formats that NumPy does not have."""

import ml_dtypes
import numpy as np
import pytest

from ndtrain.nkisim import dtypes
from ndtrain.nkisim.errors import HardwareLimit

from .kernels import BF16, apply, nisa, normal


def test_a_dtype_is_its_name() -> None:
    assert dtypes.float32 == "float32"
    assert str(dtypes.float8_e4m3) == "float8_e4m3"
    assert "bfloat16" in {dtypes.bfloat16: 1}
    assert dtypes.bfloat16.itemsize == 2
    assert copy_of(dtypes.tfloat32) is dtypes.tfloat32


def copy_of(dtype: dtypes.DType) -> object:
    import copy

    return copy.deepcopy(dtype)


@pytest.mark.parametrize(
    "value", [np.float32, np.dtype("float32"), "float32", "torch.float32", dtypes.float32]
)
def test_many_spellings_mean_float32(value: object) -> None:
    assert dtypes.as_dtype(value) is dtypes.float32


def test_bf16_and_bool_are_found() -> None:
    assert dtypes.as_dtype(BF16) is dtypes.bfloat16
    assert dtypes.as_dtype(np.bool_) is dtypes.bool_


def test_float64_is_refused() -> None:
    with pytest.raises(HardwareLimit, match="float64"):
        dtypes.as_dtype(np.float64)


def test_bf16_rounds_to_nearest_even() -> None:
    halfway_down, halfway_up = 1.0 + 2**-8, 1.0 + 3 * 2**-8
    got = dtypes.from_float32(
        np.array([halfway_down, halfway_up], np.float32), dtypes.bfloat16, True
    )
    np.testing.assert_array_equal(got.astype(np.float32), [1.0, 1.0 + 2**-6])


def test_tf32_keeps_ten_bits() -> None:
    values = np.array([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, np.inf, np.nan], np.float32)
    got = dtypes.round_tf32(values)
    np.testing.assert_array_equal(
        got, np.array([1 + 2**-10, 1.0, 1 + 2**-9, np.inf, np.nan], np.float32)
    )


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(dtypes.int8, -128, 127), (dtypes.uint8, 0, 255), (dtypes.int32, -(2**31), 2**31 - 1),
     (dtypes.uint32, 0, 2**32 - 1)],
)  # fmt: skip
def test_integers_saturate(dtype: dtypes.DType, low: int, high: int) -> None:
    values = np.array([-np.inf, -1e20, 1e20, np.inf, np.nan], np.float32)
    got = dtypes.from_float32(values, dtype, True)
    np.testing.assert_array_equal(got, np.array([low, low, high, high, 0], got.dtype))


def test_integers_round_to_nearest_even() -> None:
    got = dtypes.from_float32(np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32), dtypes.int32, True)
    np.testing.assert_array_equal(got, [0, 2, 2, 0, -2])


def test_fp8_formats_end_where_the_hardware_says() -> None:
    assert float(ml_dtypes.finfo(dtypes.float8_e4m3.storage).max) == 240
    assert float(ml_dtypes.finfo(dtypes.float8_e4m3fn.storage).max) == 448
    assert float(ml_dtypes.finfo(dtypes.float8_e5m2.storage).max) == 57344


def test_high_precision_rounds_nothing() -> None:
    values = np.array([1.0 + 2**-20], np.float32)
    got = dtypes.from_float32(values, dtypes.bfloat16, precise=False)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values)


def test_a_copy_of_equal_types_keeps_every_bit() -> None:
    bits = np.array([[0x7FC1, 0xFF80, 0x0001, 0x8000]] * 32, np.uint16)
    got = apply(lambda dst, x: nisa.tensor_copy(dst=dst, src=x), bits.view(BF16), dtype="bfloat16")
    np.testing.assert_array_equal(got.view(np.uint16), bits)


def test_an_engine_rounds_once_when_it_writes() -> None:
    x = normal(128, 64)
    got = apply(lambda dst, a: nisa.tensor_copy(dst=dst, src=a), x, dtype="bfloat16")
    np.testing.assert_array_equal(got, x.astype(BF16))


def test_a_dtype_rebuilds_from_its_name() -> None:
    assert dtypes.float8_e5m2.__reduce__() == (dtypes.named, ("float8_e5m2",))

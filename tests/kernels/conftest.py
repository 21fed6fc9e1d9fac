"""Kernels under the simulator, and inputs for them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
import pytest

from ndtrain import nkisim
from ndtrain.kernels import KERNELS

BF16 = ml_dtypes.bfloat16


@pytest.fixture
def simulated() -> Callable:
    """simulated(name) -> the kernel of that name, which runs on the simulator when called."""

    def load(name: str) -> Callable:
        with nkisim.as_nki():
            module = importlib.import_module(f"ndtrain.kernels.{KERNELS[name].module}")
        return getattr(module, KERNELS[name].function)

    return load


@pytest.fixture
def reference() -> Callable:
    """reference(name) -> the NumPy function of that name."""

    def load(name: str) -> Callable:
        module = importlib.import_module(f"ndtrain.kernels.{KERNELS[name].reference}")
        return getattr(module, KERNELS[name].function)

    return load


@pytest.fixture(params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", request.param)
    yield request.param


@pytest.fixture
def trn2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn2")


def normal(seed: int, shape: tuple[int, ...], dtype: type = BF16) -> np.ndarray:
    """Standard normal numbers, rounded to dtype."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)

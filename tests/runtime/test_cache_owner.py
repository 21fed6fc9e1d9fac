"""Whose cache of compiled graphs a run fills."""

import importlib.metadata

import pytest

from ndtrain.runtime.cache_owner import cache_owner

REAL = {
    "torch": "2.9.1",
    "torch-xla": "2.9.0",
    "torch-neuronx": "2.9.0.2.12.22436",
    "libneuronxla": "2.2.15515",
    "neuronx-cc": "2.23.6484",
}


def test_a_device_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_owner("cpu") is None
    assert cache_owner("neuron") == "torch-neuronx"
    installed: dict[str, str] = {}

    def version(package: str) -> str:
        if package not in installed:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert cache_owner("xla") == "torch-xla"
    installed |= REAL
    assert cache_owner("xla") == "neuronx-cc"

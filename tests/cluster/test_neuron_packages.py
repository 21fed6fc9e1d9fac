"""Neuron's packages: placeholders, mixed stacks and mixed releases are told from what works."""

import importlib.metadata

import pytest

from ndtrain.cluster.neuron_packages import stack
from ndtrain.runtime.neuron_packages import PLACEHOLDERS, installed, placeholders

XLA = {"torch": "2.9.1", "torch-xla": "2.9.0", "torch-neuronx": "2.9.0.2.12.22436"}
XLA |= {"neuronx-cc": "2.23.6484"}
NATIVE = {"torch": "2.13.0+cpu", "torch-neuronx": "2.13.3.0", "neuronx-cc": "2.28.7631"}


@pytest.mark.parametrize(("versions", "device"), [(XLA, "trn1"), (NATIVE, "trn2")])
def test_the_stack_of_a_device(versions: dict[str, str], device: str) -> None:
    (finding,) = stack(versions, device)
    assert finding.state == "ok"
    assert versions["torch-neuronx"] in finding.detail


@pytest.mark.parametrize(
    ("versions", "device", "message", "help_text"),
    [
        ({}, "trn1", "torch-neuronx is not installed", "-c launch/constraints-neuron-xla.txt"),
        ({}, "trn2", "torch-neuronx is not installed", "-c launch/constraints-neuron.txt"),
        (NATIVE, "trn1", "native PyTorch does not support trn1", "[neuron-xla]"),
        (XLA, "trn2", "torch-xla's stack on trn2", "[neuron]"),
        (NATIVE | {"torch-xla": "2.9.0"}, "trn2", "two stacks in one environment", "[neuron]"),
        (XLA | {"torch-xla": "2.8.1"}, "trn1", "different releases of PyTorch", "torch-xla==2.9"),
        (XLA | {"neuronx-cc": "2.25.3371"}, "trn1", "is not of SDK 2.28", "neuronx-cc==2.23.*"),
        (XLA | {"torch": "2.13.0"}, "trn1", "torch 2.13.0 under torch-neuronx", "torch==2.9.*"),
        (NATIVE | {"torch": "2.9.0"}, "trn2", "torch 2.9.0 under", "torch==2.13.*"),
        ({"torch": "2.9.0", "torch-neuronx": "2.9.0.2.12.1"}, "trn1", "without torch-xla", "2.9"),
    ],
)
def test_what_does_not_work(
    versions: dict[str, str], device: str, message: str, help_text: str
) -> None:
    (finding,) = stack(versions, device)
    assert finding.state == "fail"
    assert message in finding.detail
    assert help_text in finding.help


@pytest.mark.parametrize("package", PLACEHOLDERS)
def test_a_placeholder_is_named(package: str) -> None:
    versions = XLA | {package: PLACEHOLDERS[package]}
    assert placeholders(versions) == [package]
    (finding,) = stack(versions, "trn1")
    assert finding.state == "fail"
    assert f"placeholder without code: {package}" in finding.detail


def test_only_what_is_installed_is_listed() -> None:
    assert installed(("numpy", "no-such-package")) == {"numpy": importlib.metadata.version("numpy")}

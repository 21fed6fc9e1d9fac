"""What must not be started on native PyTorch for Neuron, and what a start gives.

torch's own spare device type takes the name, as torch-neuronx has it; its module is the stand-in.
"""

import importlib.metadata
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch

from ndtrain.core.errors import UserError
from ndtrain.runtime.device_streams import DeviceStream
from ndtrain.runtime.host_collectives import ByDevice
from ndtrain.runtime.mesh import LANES
from ndtrain.runtime.neuron_environment import STREAM_VARIABLES, missing_variables
from ndtrain.runtime.start_neuron import BACKEND, require_neuron, start_neuron
from tests.runtime.stand_in_neuron import StandIn

NATIVE = {"torch": "2.13.0+cpu", "torch-neuronx": "2.13.3.0", "neuronx-cc": "2.28.7631"}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Pretends that the native stack is there."""
    forget = getattr(torch.get_device_module, "cache_clear", lambda: None)
    forget()
    stand_in = StandIn()
    install(monkeypatch, NATIVE)
    torch.utils.rename_privateuse1_backend("neuron")
    # The name stays for as long as the process, so torch has to find no device of it afterwards.
    torch.neuron = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch_neuronx", ModuleType("torch_neuronx"))
    monkeypatch.setattr(torch, "neuron", stand_in)
    yield stand_in
    forget()


def install(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    def version(package: str) -> str:
        if package not in versions:
            raise importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.parametrize(
    ("versions", "what"),
    [
        ({}, "torch-neuronx is not installed"),
        ({"torch-neuronx": "1.0"}, "PyPI's placeholder without code: torch-neuronx"),
        ({"torch-neuronx": "2.9.0.2.12.22436"}, "torch-xla's stack on trn2"),
        (NATIVE | {"torch-xla": "2.9.0"}, "two stacks in one environment"),
        (NATIVE | {"torch": "2.14.0"}, "torch 2.14.0 under torch-neuronx 2.13.3.0"),
    ],
)
def test_packages_that_are_not_the_native_stack(versions, what: str, monkeypatch) -> None:
    install(monkeypatch, versions)
    with pytest.raises(UserError, match=what) as caught:
        require_neuron(overlaps=False)
    assert caught.value.where == "runtime.device=neuron"
    assert caught.value.help


def test_a_package_that_cannot_be_imported(monkeypatch) -> None:
    install(monkeypatch, NATIVE)
    monkeypatch.setitem(sys.modules, "torch_neuronx", None)
    with pytest.raises(UserError, match="does not give torch a device"):
        require_neuron(overlaps=False)


def test_a_machine_without_the_device(device: StandIn, monkeypatch) -> None:
    monkeypatch.setattr(device, "device_count", lambda: 0)
    with pytest.raises(UserError, match="finds no Neuron device"):
        start_neuron(1, 1, 1)


def test_overlap_that_would_silently_not_happen(device: StandIn, monkeypatch) -> None:
    for name in STREAM_VARIABLES:
        monkeypatch.setenv(name, "1")
    assert require_neuron(overlaps=True) is device
    monkeypatch.setenv("TORCH_NEURONX_ENABLE_HOST_CC", "0")
    assert missing_variables({}).keys() == STREAM_VARIABLES.keys()
    require_neuron(overlaps=False)  # unused, the streams would only cost
    what = "would silently not overlap without TORCH_NEURONX_ENABLE_HOST_CC\n"
    with pytest.raises(UserError, match=what) as caught:
        require_neuron(overlaps=True)
    assert "set TORCH_NEURONX_ENABLE_HOST_CC=1 before the program starts" in caught.value.help


def test_a_group_of_another_size(device: StandIn) -> None:
    with pytest.raises(UserError, match="the process group has 1 ranks, the configuration 4"):
        start_neuron(2, 2, 2)


def test_one_rank_says_what_it_is(device: StandIn) -> None:
    runtime = start_neuron(1, 1, 1)
    assert runtime.device == torch.device("neuron")
    assert runtime.about.startswith("neuron: torch-neuronx 2.13.3.0; active overlap means")
    assert (runtime.has_times, runtime.has_permute, runtime.trace) == (False, False, None)
    assert isinstance(runtime.collectives.transport, ByDevice)
    lanes = {name for name, one in runtime.streams.items() if isinstance(one, DeviceStream)}
    assert lanes == {*LANES[1:], "dma"}
    assert BACKEND == "cpu:gloo,neuron:neuron"


def test_the_rest_of_the_process_has_no_accelerator() -> None:
    """Whatever ran before: other tests and torch's optimizers ask for it."""
    assert torch.accelerator.current_accelerator(check_available=True) is None

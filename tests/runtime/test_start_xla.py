"""What must not be started on torch-xla: a world that is not it, packages without code.

Without torch-xla; `tests/xla` starts the real one.
"""

import importlib.metadata
import sys

import pytest
import torch.distributed as dist

from ndtrain.core.errors import UserError
from ndtrain.runtime import start_xla as module
from ndtrain.runtime.start_xla import check_world, neuron_packages, start_xla
from ndtrain.runtime.xla import import_torch_xla, trace_xla


def install(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    """Pretends that of Neuron's packages these are there."""

    def version(package: str) -> str:
        if package not in versions:
            raise importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(module.importlib.metadata, "version", version)


@pytest.mark.parametrize(
    ("package", "version"),
    [("torch-neuronx", "1.0"), ("libneuronxla", "1.0"), ("neuronx-cc", "1.0.post1")],
)
def test_placeholders_are_not_taken_for_the_real_thing(package, version, monkeypatch) -> None:
    install(monkeypatch, {package: version})
    with pytest.raises(UserError, match=f"{package} {version} is PyPI's placeholder"):
        start_xla(1, 1, 1)


# Of Neuron SDK 2.28.
REAL = {
    "torch-neuronx": "2.9.0.2.12.22436+3b7b1f0c",
    "libneuronxla": "2.2.15515.0",
    "neuronx-cc": "2.23.6484.0",
}
TORCH = {"torch": "2.9.1", "torch-xla": "2.9.0"}


def test_real_versions_pass(monkeypatch) -> None:
    install(monkeypatch, REAL | TORCH)
    assert neuron_packages() == REAL


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"torch-neuronx": "2.13.3.0"}, "two stacks in one environment"),
        ({"neuronx-cc": "2.28.7631"}, "neuronx-cc 2.28.7631 is not of SDK 2.28"),
        ({"torch": "2.13.0"}, "torch 2.13.0 under torch-neuronx 2.9"),
    ],
)
def test_packages_of_two_stacks_or_releases_are_refused(changed, what, monkeypatch) -> None:
    install(monkeypatch, REAL | TORCH | changed)
    with pytest.raises(UserError, match=what) as caught:
        neuron_packages()
    assert caught.value.where == "runtime.device=xla"
    assert caught.value.help


def test_a_group_of_another_size_than_the_configuration_is_refused() -> None:
    with pytest.raises(UserError, match="the process group has 1 ranks, the configuration 2"):
        check_world(2, xla_size=2, is_cpu=False)


def test_a_world_that_torch_xla_does_not_reach_is_refused_except_on_its_cpu(monkeypatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 32)
    with pytest.raises(UserError, match="reaches 1 devices, the configuration has 32"):
        check_world(32, xla_size=1, is_cpu=False)
    check_world(32, xla_size=32, is_cpu=False)
    check_world(32, xla_size=1, is_cpu=True)  # gloo carries the collectives there


def test_without_torch_xla_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_xla", None)
    with pytest.raises(UserError, match="torch-xla cannot be imported") as caught:
        import_torch_xla()
    assert 'pip install "torch==2.9.1" "torch_xla==2.9.0"' in caught.value.help


def test_a_torch_xla_that_forgets_names_is_refused(monkeypatch) -> None:
    """It read its variables when something else imported it."""
    monkeypatch.setitem(sys.modules, "torch_xla", object())
    monkeypatch.setenv("XLA_HLO_DEBUG", "0")
    with pytest.raises(UserError, match="without keeping names") as caught:
        trace_xla(0, 2, 1, 1)
    assert "XLA_IR_DEBUG=1 XLA_HLO_DEBUG=1" in caught.value.help

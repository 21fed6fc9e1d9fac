"""What must not be started on torch-xla: a world that is not it, packages without code."""

import importlib.metadata

import pytest

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.core.errors import UserError
from ndtrain.runtime import start_xla as module
from ndtrain.runtime.start_xla import check_world, neuron_packages, start_xla
from ndtrain.runtime.xla import XlaTransport


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Pretends that of Neuron's packages these are there; `_` stands for the names' `-`."""
    found = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(package: str) -> str:
        if package not in found:
            raise importlib.metadata.PackageNotFoundError(package)
        return found[package]

    monkeypatch.setattr(module.importlib.metadata, "version", version)


@pytest.mark.parametrize(
    "versions",
    [{"torch_neuronx": "1.0"}, {"libneuronxla": "1.0"}, {"neuronx_cc": "1.0.post1"}],
)
def test_placeholders_are_not_taken_for_the_real_thing(versions, monkeypatch) -> None:
    install(monkeypatch, **versions)
    with pytest.raises(UserError, match="placeholder"):
        start_xla(1, 1, 1)


def test_real_versions_pass(monkeypatch) -> None:
    real = {
        "torch_neuronx": "2.9.0.2.12.22436+3b7b1f0c",
        "libneuronxla": "2.2.15515.0",
        "neuronx_cc": "2.23.6484.0",
    }
    install(monkeypatch, **real)
    assert len(neuron_packages()) == 3


def test_a_group_of_another_size_than_the_configuration_is_refused() -> None:
    with pytest.raises(UserError, match="the process group has 1 ranks, the configuration 2"):
        start_xla(2, 1, 1)


def test_a_world_that_torch_xla_does_not_reach_is_refused_except_on_its_cpu(monkeypatch) -> None:
    monkeypatch.setattr(module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(module.dist, "get_world_size", lambda: 32)
    with pytest.raises(UserError, match="reaches 1 devices, the configuration has 32"):
        check_world(32, xla_size=1, is_cpu=False)
    check_world(32, xla_size=32, is_cpu=False)
    check_world(32, xla_size=1, is_cpu=True)  # gloo carries the collectives there


def test_one_rank_on_the_cpu_says_what_it_is() -> None:
    runtime = start_xla(1, 1, 1)
    assert runtime.device.type == "xla"
    assert runtime.about == "xla: torch-xla's CPU device, which stands in for a Trainium"
    assert isinstance(runtime.collectives.transport._device, XlaTransport)  # type: ignore[attr-defined]

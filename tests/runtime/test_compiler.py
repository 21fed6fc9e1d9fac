"""Which compiler a device has, and what is refused before any work."""

import sysconfig

import pytest

from ndtrain.config.load import load
from ndtrain.core.errors import UserError
from ndtrain.runtime.compiler import WHERE, require_compiler
from ndtrain.train.start_rank import rank_config
from tests.parallel.stand_in_backend import neuron_backend


def test_a_machine_without_a_cpp_compiler_is_refused_before_any_work(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    loaded = load("quickstart", ["parallel.tp=1", "runtime.compile=true"])
    with pytest.raises(
        UserError, match="there is no C\\+\\+ compiler `no-such-compiler`"
    ) as caught:
        rank_config(loaded, 1)
    assert caught.value.where == WHERE
    assert "apt install g++" in caught.value.help
    rank_config(load("quickstart", ["parallel.tp=1"]), 1)  # who does not compile needs none


def test_a_python_without_headers_is_refused(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(UserError, match=r"there is no .*Python\.h") as caught:
        require_compiler("cpu")
    assert "python3-dev" in caught.value.help
    (tmp_path / "Python.h").touch()
    assert require_compiler("cpu") == "inductor"


def test_a_stack_without_its_backend_is_refused() -> None:
    with pytest.raises(UserError, match="torch has no backend `neuron`") as caught:
        require_compiler("neuron")
    assert "torch-neuronx 2.13" in caught.value.help
    with neuron_backend():
        assert require_compiler("neuron") == "neuron"

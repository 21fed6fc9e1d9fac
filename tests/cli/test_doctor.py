"""`ndtrain doctor`: each finding, good and bad, on machines that are not this one."""

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import pytest

from ndtrain.cli import examinations
from tests.cli.conftest import Run


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The installed packages that the examinations see."""
    found: dict[str, str] = {}

    def version(package: str) -> str:
        if package not in found:
            raise importlib.metadata.PackageNotFoundError(package)
        return found[package]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return found


def test_this_machine_can_run_the_tests(run: Run) -> None:
    result = run("doctor")
    assert result.code == 0
    names = [line.split()[1] for line in result.out.splitlines() if not line.startswith(" ")]
    assert names == [
        "python",
        "torch",
        "gloo",
        "cpu",
        "memory",
        "disk",
        "cache",
        "configs",
        "neuron",
    ]


def test_json_and_the_exit_code_of_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = examinations.Finding("fail", "moon", "not full", "wait")
    monkeypatch.setattr(examinations, "EXAMINATIONS", (lambda: bad,))
    result = run("doctor", "--json")
    assert result.code == 1
    assert json.loads(result.out) == [
        {"state": "fail", "name": "moon", "detail": "not full", "help": "wait"}
    ]
    assert run("doctor").out == "fail  moon  not full\n            help: wait\n"


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("2.8.0", "fail"),
        ("2.9.0", "ok"),
        ("2.13.0+cpu", "ok"),
        ("2.14.1", "ok"),
        ("2.15.0a0+git1", "fail"),
        ("3.0", "fail"),
        (None, "fail"),
    ],
)
def test_the_range_of_torch(versions: dict[str, str], version: str | None, state: str) -> None:
    if version:
        versions["torch"] = version
    finding = examinations.torch()
    assert finding.state == state
    assert bool(finding.help) == (state == "fail")


def test_the_range_of_torch_is_the_one_of_pyproject() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    oldest = ".".join(map(str, examinations.TORCH_OLDEST))
    excluded = ".".join(map(str, examinations.TORCH_EXCLUDED))
    assert f'"torch>={oldest},<{excluded}"' in text
    assert f'requires-python = ">={".".join(map(str, examinations.PYTHON_OLDEST))}"' in text


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert examinations.python().state == "fail"


def test_gloo_missing_and_torch_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed

    assert examinations.gloo().state == "ok"
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    assert "not in this build" in examinations.gloo().detail
    monkeypatch.setitem(sys.modules, "torch.distributed", None)
    assert "does not load" in examinations.gloo().detail


@pytest.mark.parametrize("package", examinations.PLACEHOLDERS)
def test_a_placeholder_is_not_taken_for_the_real_package(
    versions: dict[str, str], package: str
) -> None:
    assert examinations.neuron().detail == "not installed"
    versions[package] = examinations.PLACEHOLDERS[package]
    finding = examinations.neuron()
    assert finding.state == "warn"
    assert package in finding.help
    versions[package] = "2.27.1"
    if package != "torch-neuronx":  # whose version says whose stack it is
        assert examinations.neuron() == ("ok", "neuron", f"{package} 2.27.1", "")


@pytest.mark.parametrize(
    ("found", "state", "detail"),
    [
        (("2.13.0", "2.13.3.0", None), "ok", "runtime.device=neuron: torch-neuronx 2.13.3.0"),
        (("2.9.1", "2.9.0.2.12.22436", "2.9.0"), "ok", "runtime.device=xla: torch-neuronx 2.9"),
        (("2.13.0", "2.13.3.0", "2.9.0"), "warn", "two stacks in one environment"),
        (("2.9.1", "2.9.0.2.12.22436", None), "warn", "torch-neuronx without torch-xla"),
    ],
)
def test_the_stack_is_named_by_the_runtime_that_drives_it(
    versions: dict[str, str], found: tuple[str | None, ...], state: str, detail: str
) -> None:
    names = ("torch", "torch-neuronx", "torch-xla")
    versions |= {name: one for name, one in zip(names, found, strict=True) if one is not None}
    finding = examinations.neuron()
    assert finding.state == state
    assert finding.detail.startswith(detail)
    assert bool(finding.help) == (state == "warn")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "deep" / "cache"))
    assert examinations.cache() == ("ok", "cache", str(tmp_path / "deep" / "cache" / "ndtrain"), "")
    # root writes everywhere, so the refusal is made by hand.
    monkeypatch.setattr(
        examinations.tempfile, "TemporaryFile", lambda dir: os.open("/", os.O_WRONLY)
    )
    finding = examinations.cache()
    assert finding.state == "fail"
    assert "XDG_CACHE_HOME" in finding.help


def test_small_machines_are_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examinations, "MEMORY_WANTED_GIB", 1 << 30)
    monkeypatch.setattr(examinations, "DISK_WANTED_GIB", 1 << 30)
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 1)
    found = [examine() for examine in (examinations.memory, examinations.disk, examinations.cpu)]
    assert [finding.state for finding in found] == ["warn"] * 3
    assert all(finding.help for finding in found)

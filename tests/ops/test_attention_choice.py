"""Which implementation of attention a run gets, and every reason for a refusal."""

import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ndtrain.core.errors import UserError
from ndtrain.ops import nkilib_attention, nxd_attention
from ndtrain.ops.attention_choice import NKI, Problem, choose

CPU, META, XLA = (torch.device(name) for name in ("cpu", "meta", "xla"))
PROBLEM = Problem(2048, 128, torch.bfloat16, has_documents=False)


def install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes `name` and the packages above it importable."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:end]))
        module.__path__ = []
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_auto_takes_the_fastest_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto", CPU, PROBLEM) == "sdpa"
    assert choose("auto", META, PROBLEM) == "reference"
    assert choose("auto", XLA, PROBLEM) == "reference"
    install(monkeypatch, NKI)
    assert choose("auto", XLA, PROBLEM) == "nki"
    assert choose("auto", XLA, replace(PROBLEM, head_dim=80)) == "reference"


@pytest.mark.parametrize("device", [CPU, META, XLA])
def test_the_reference_runs_everywhere(device: torch.device) -> None:
    assert choose("reference", device, PROBLEM) == "reference"


@pytest.mark.parametrize(
    ("requested", "device", "legal"),
    [
        ("sdpa", META, "auto, reference"),
        ("nki-sim", XLA, "auto, reference, nki, nkilib, nxd"),
        ("nki", CPU, "auto, reference, sdpa, nki-sim, nkilib"),
        ("nxd", CPU, "auto, reference, sdpa, nki-sim, nkilib"),
    ],
)
def test_the_wrong_device_is_answered_by_what_it_has(
    requested: str, device: torch.device, legal: str
) -> None:
    with pytest.raises(UserError, match=f"not available on `{device.type}`") as caught:
        choose(requested, device, PROBLEM)
    assert caught.value.help == f"legal here: {legal}"


@pytest.mark.parametrize("requested", ["nki", "nkilib", "nxd"])
def test_what_is_not_installed_is_named(requested: str) -> None:
    with pytest.raises(UserError, match=f"ops.attention={requested} needs `"):
        choose(requested, XLA, PROBLEM)


def test_a_placeholder_without_code_is_not_taken_for_nki(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "nki")
    with pytest.raises(UserError, match=r"needs `nki\.language`"):
        choose("nki", XLA, PROBLEM)


@pytest.mark.parametrize("requested", ["nki-sim", "nkilib"])
def test_the_simulator_needs_its_package(requested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = nkilib_attention.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "ml_dtypes" else find(name, *a)
    )
    with pytest.raises(UserError, match="needs the package ml_dtypes"):
        choose(requested, CPU, PROBLEM)


@pytest.mark.parametrize("folder", ["", "no/such/folder"])
def test_nki_library_needs_a_checkout_on_a_cpu(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ml_dtypes")
    monkeypatch.setenv(nkilib_attention.VARIABLE, folder)
    with pytest.raises(UserError, match="there is none"):
        choose("nkilib", CPU, PROBLEM)


def test_nki_library_runs_in_the_simulator_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ml_dtypes")
    (tmp_path / "src" / "nkilib_src").mkdir(parents=True)
    monkeypatch.setenv(nkilib_attention.VARIABLE, str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert choose("nkilib", CPU, PROBLEM) == "nkilib-sim"
    assert str(tmp_path / "src") in sys.path


@pytest.mark.parametrize(
    ("requested", "change", "match"),
    [
        ("nki-sim", {"dtype": torch.float64}, "bf16 or fp32"),
        ("nki-sim", {"head_dim": 80}, "no head dim of 80"),
        ("nki", {"head_dim": 256}, "no head dim of 256"),
        ("nkilib", {"dtype": torch.float32}, "computes in bf16"),
        ("nkilib", {"sequence_length": 200}, "cannot split 200 tokens"),
        ("nkilib", {"sequence_length": 640}, "cannot split 640 tokens"),
        ("nxd", {"dtype": torch.float32}, "computes in bf16"),
        ("nxd", {"sequence_length": 1024}, "cannot split 1024 tokens"),
        ("nxd", {"has_documents": True}, "cannot keep the documents"),
    ],
)
def test_a_problem_that_the_kernels_cannot_compute_is_refused(
    requested: str, change: dict, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ml_dtypes")
    for module in (NKI, nxd_attention.MODULE, "nkilib.core.attention"):
        install(monkeypatch, module)
    with pytest.raises(UserError, match=match):
        choose(requested, CPU if requested == "nki-sim" else XLA, replace(PROBLEM, **change))

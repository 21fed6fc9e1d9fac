"""Loads kernel files of a checkout that the user names, with the simulator as their `nki`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ndtrain import nkisim

SDK = "NDTRAIN_NEURON_SDK"
LIBRARY = "NDTRAIN_NKI_LIBRARY"
SAMPLES = "NDTRAIN_NKI_SAMPLES"


def checkout(variable: str) -> Path:
    """The folder that `variable` names; skips the test when it names none."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name a checkout")
    return Path(folder)


def load(path: Path) -> ModuleType:
    """Import one file as it is."""
    spec = importlib.util.spec_from_file_location(f"third_party_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with nkisim.as_nki():
        spec.loader.exec_module(module)
    return module


def library_module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of nki-library, from its source folder."""
    root = checkout(LIBRARY)
    monkeypatch.syspath_prepend(str(root / "src"))
    # The package reads hardware sizes while it is imported.
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn2")
    with nkisim.as_nki():
        return importlib.import_module(f"nkilib_src.nkilib.{name}")

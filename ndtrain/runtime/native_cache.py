"""The cache of native PyTorch for Neuron: where it is, what lies in it, what a process met.

    cache = NativeCache(native_folder(os.environ), find_metrics())      # a `CountedGraphs`

Each operation, and each region of torch.compile, is a graph of its own. A graph is a file
`KEY.neff`, written under another name and renamed; locks lie elsewhere, on the node. All ranks of a
node share the folder. That, its default and the counters are from the sources of an early
torch-neuronx, the folder's variable from Neuron SDK 2.33; none of it was seen from hardware.
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ndtrain.runtime.graph_counts import Counts

VARIABLE = "TORCH_NEURONX_NEFF_CACHE_DIR"
DEFAULT = "/tmp/neff_cache"
# The sources read the first, a page beside them names the second.
DISABLING = ("TORCH_NEURONX_NEFF_DISABLE_CACHE", "TORCH_NEURONX_DISABLE_NEFF_CACHE")
_COUNTER = "CompilationCache."


class NativeCache:
    def __init__(self, folder: Path | None, metrics: Any) -> None:
        """folder: None where the cache is off. metrics: as `find_metrics` gives it."""
        self.folder = folder
        self._metrics = metrics

    def entries(self) -> frozenset[str]:
        """Of all ranks: paths below the folder. What vanishes meanwhile is none, and no error."""
        if self.folder is None:
            return frozenset()
        return frozenset(
            os.path.relpath(os.path.join(place, name), self.folder)
            for place, _, names in os.walk(self.folder)
            for name in names
            if name.endswith(".neff") and not name.startswith(".")
        )

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Inside, the process counts. It is off by default, and its cost to a step not known."""
        if self._metrics is None:
            yield
            return
        was_enabled = self._metrics.is_enabled()
        self._metrics.set_enabled(True)
        try:
            yield
        finally:
            self._metrics.set_enabled(was_enabled)

    def counts(self) -> Counts:
        """So far, and only while it was counted."""
        if self._metrics is None:
            num_entries = len(self.entries())
            return Counts(num_entries, None, num_entries)
        return Counts(
            self._value("TotalCompilations"),
            self._value("PersistentHits"),
            self._value("PersistentMisses"),
        )

    def _value(self, name: str) -> int:
        """A counter that never counted has no value."""
        return self._metrics.get_counter_value(_COUNTER + name) or 0


def native_folder(environment: Mapping[str, str]) -> Path | None:
    """None where the cache is turned off."""
    if any(environment.get(name, "").lower() in ("1", "true", "yes") for name in DISABLING):
        return None
    return Path(environment.get(VARIABLE) or DEFAULT)


def find_metrics() -> Any:
    """The module that counts, None where torch-neuronx has none of this form."""
    try:
        module = importlib.import_module("torch_neuronx.metrics")
    except ImportError:
        return None
    needed = ("is_enabled", "set_enabled", "get_counter_value")
    return module if all(hasattr(module, name) for name in needed) else None

"""What torch-neuronx compiles and keeps, without Neuron: it stands in for it in tests.

    compiler = StandInCompiler(folder)
    compiler.install()                          # as the module torch_neuronx.metrics
    with compiler:
        x + y                                   # each operation of new shapes is a graph
        compiler.synchronize()                  # by now it is compiled, or found

As in torch-neuronx's sources: an operation is only queued when it is called and compiled behind the
host; a graph is a file AB/CD/KEY.neff, written under a hidden name and renamed; the counters
of `metrics` stand still unless they are enabled. Unlike there, ranks have graphs of their own.
"""

import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

METRICS = "torch_neuronx.metrics"
UNCOMPILED = ("c10d.", "aten.copy_", "aten._to_copy")  # collectives; copies, which DMA does


class StandInCompiler(TorchDispatchMode):
    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        """seconds: that a graph takes to compile."""
        super().__init__()
        self.folder, self.seconds = folder, seconds
        self._is_enabled = self._is_in_region = False
        self._counters: Counter[str] = Counter()
        self._queue: list[str] = []
        self._loaded: set[str] = set()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def install(self) -> None:
        module: Any = ModuleType(METRICS)
        module.is_enabled = lambda: self._is_enabled
        module.set_enabled = self._enable
        module.get_counter_value = lambda name: self._counters.get(name)
        sys.modules[METRICS] = module

    def _enable(self, is_enabled: bool) -> None:
        self._is_enabled = is_enabled

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = str(func)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        is_none = func.is_view or name.startswith(UNCOMPILED) or _are_of_the_host(tensors)
        if not (is_none or self._is_in_region):
            self.call(name + "".join(f"{x.dtype}{tuple(x.shape)}" for x in tensors))
        if name == "aten._local_scalar_dense.default":  # the host waits for the value
            self.synchronize()
        return func(*args, **kwargs or {})

    def call(self, graph: str) -> None:
        if graph not in self._loaded:
            self._loaded.add(graph)
            self._queue.append(graph)

    @contextmanager
    def region(self, graph: str) -> Iterator[None]:
        """Operations inside are one graph, as those of a region of torch.compile are."""
        self.call(graph)
        self._is_in_region = True
        try:
            yield
        finally:
            self._is_in_region = False

    def synchronize(self) -> None:
        for graph in self._queue:
            self._find_or_compile(graph)
        self._queue.clear()

    def _find_or_compile(self, graph: str) -> None:
        text = f"{graph} of rank {os.environ.get('RANK', '0')}"
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        path = self.folder / key[:2] / key[2:4] / f"{key}.neff"
        if path.exists():
            self._count("PersistentHits")
            return
        self._count("PersistentMisses")
        time.sleep(self.seconds)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".tmp.{os.getpid()}.neff")
        partial.write_text(text)
        partial.rename(path)
        self._count("TotalCompilations")

    def _count(self, name: str) -> None:
        self._counters[f"CompilationCache.{name}"] += self._is_enabled


def _are_of_the_host(tensors: list[Tensor]) -> bool:
    """Here all are; on a device those would be that a run sums up and writes with."""
    return any(x.dtype in (torch.float64, torch.uint8) for x in tensors)

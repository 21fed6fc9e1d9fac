"""The caches of compiled graphs on a node's disk: where they are, what lies in them, what was met.

    cache = find_cache("torch-xla", local_rank=0, environment=os.environ)
    cache.entries(), cache.num_hits(), cache.num_misses()
    finished(cache.folder)          # what another node may have

Of torch-xla on Neuron it is neuronx-cc's: a folder for each graph, `neuronxcc-2.23/MODULE_X+Y`,
that all ranks of the node share and lock. Written from AWS's documentation, never seen from
hardware.

On torch-xla's CPU device its own stands in, where it is asked for: torch-xla 2.9 finds there what
an earlier process compiled, and then cannot load it. It writes files in place and without a lock,
so that another process may read half of one: each rank has a folder of its own.

Native PyTorch's, torch-neuronx's own, is in `native_cache.py`; here is only where it lies.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Protocol

from ndtrain.runtime.native_cache import native_folder

Owner = Literal["torch-xla", "neuronx-cc", "torch-neuronx"]
"""Whose cache it is: of torch-xla's CPU device, of torch-xla on Neuron, of native PyTorch."""

NEURON_DEFAULT = "/var/tmp/neuron-compile-cache"
RECORDS = "graphs"  # folder of `graph_records.py`, beside the entries
_NEURON_ENTRIES = "neuronxcc-*/MODULE_*"


class GraphCache(Protocol):
    folder: Path
    """Where entries are named from."""

    def entries(self) -> frozenset[str]:
        """Of this rank, or where ranks share them of all: paths below the folder."""
        ...

    def num_hits(self) -> int:
        """Of this process so far; 0 where the cache does not say."""
        ...

    def num_unloadable(self) -> int:
        """Hits that were of no use: the graph was compiled again."""
        ...

    def num_misses(self) -> int:
        """Grows as soon as a graph is not found."""
        ...


class NeuronCache:
    """A miss is a new entry: its folder is there before the compiler has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> frozenset[str]:
        return frozenset(
            str(path.relative_to(self.folder)) for path in self.folder.glob(_NEURON_ENTRIES)
        )

    def num_hits(self) -> int:
        return 0

    def num_unloadable(self) -> int:
        return 0

    def num_misses(self) -> int:
        return len(self.entries())


class TorchXlaCache:
    """To be opened before the first graph runs."""

    def __init__(self, folder: Path, local_rank: int) -> None:
        import torch_xla.debug.metrics as metrics
        import torch_xla.runtime as xla_runtime

        self.folder = folder
        self._own = folder / f"rank_{local_rank}"
        self._metrics = metrics
        self._own.mkdir(parents=True, exist_ok=True)
        xla_runtime.initialize_cache(str(self._own))

    def entries(self) -> frozenset[str]:
        return frozenset(f"{self._own.name}/{path.name}" for path in self._own.iterdir())

    def num_hits(self) -> int:
        return self._count("Hit") + self.num_unloadable()

    def num_unloadable(self) -> int:
        return self._count("DeserializeFailure")

    def num_misses(self) -> int:
        return self._count("Miss")

    def _count(self, what: str) -> int:
        return self._metrics.counter_value(f"PersistentCache{what}") or 0


def find_cache(
    owner: Literal["torch-xla", "neuronx-cc"], local_rank: int, environment: Mapping[str, str]
) -> GraphCache | None:
    """None where there is none, or none that can be looked into."""
    folder = cache_folder(owner, environment)
    if folder is None:
        return None
    return NeuronCache(folder) if owner == "neuronx-cc" else TorchXlaCache(folder, local_rank)


def cache_folder(owner: Owner, environment: Mapping[str, str]) -> Path | None:
    """`cache_place` where it is a folder."""
    place = cache_place(owner, environment)
    return None if place is None or "://" in place else Path(place)


def cache_place(owner: Owner, environment: Mapping[str, str]) -> str | None:
    """By the variables of its owner; None where there is none.

    neuronx-cc: `--no_cache` and `--cache_dir` in NEURON_CC_FLAGS, then NEURON_COMPILE_CACHE_URL.
    torch-xla: XLA_PERSISTENT_CACHE_PATH. torch-neuronx: `native_cache.native_folder`.
    """
    if owner == "torch-neuronx":
        folder = native_folder(environment)
        return None if folder is None else str(folder)
    if owner == "torch-xla":
        return environment.get("XLA_PERSISTENT_CACHE_PATH") or None
    words = environment.get("NEURON_CC_FLAGS", "").replace("=", " ").split()
    if "--no_cache" in words:
        return None
    if "--cache_dir" in words[:-1]:
        return words[words.index("--cache_dir") + 1]
    return environment.get("NEURON_COMPILE_CACHE_URL") or NEURON_DEFAULT


def finished(folder: Path) -> Iterator[str]:
    """Entries that are complete, by their paths below the folder; compilers that failed leave none.

    Of neuronx-cc those with `model.done` and a `model.neff`. Of the others those that a record
    names, which is written when the graphs have run; none is empty.
    """
    for path in sorted(folder.glob(_NEURON_ENTRIES)):
        if (path / "model.done").is_file() and _has_contents(path / "model.neff"):
            yield str(path.relative_to(folder))
    named = {name for file in folder.glob(f"{RECORDS}/*.json") for name in _named_in(file)}
    yield from sorted(name for name in named if _has_contents(folder / name))


def _has_contents(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _named_in(record: Path) -> list[str]:
    try:
        names = json.loads(record.read_bytes())["entries"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # it only explains misses: what is damaged explains none
    return [name for name in names if not os.path.isabs(name) and ".." not in name]

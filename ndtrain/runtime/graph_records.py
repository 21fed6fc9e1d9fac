"""What a compiled graph depended on, kept beside the cache, so that a miss can say why.

    records = GraphRecords(folder, {"compiler": "neuronx-cc 2.23", "model.num_layers": "4", ...})
    records.why_missed("the training step")     # "compiler neuronx-cc 2.22 -> neuronx-cc 2.23"
    records.write("the training step", entries, seconds=41.0)

A key has what the compiler's own key is made of, as far as a person can change it: versions, flags,
variables, and the configuration's values that shape the graph (names with a dot).
"""

import hashlib
import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ndtrain.core.atomic import write_json
from ndtrain.runtime.graph_cache import RECORDS

NOTHING = "nothing cached"
GONE = "what was compiled is no longer in the cache"
CHANGED = "the graph itself changed"
ABSENT = "unset"


@dataclass(frozen=True)
class Record:
    """seconds: that the graph's compilation and first run took."""

    graph: str
    key: dict[str, str]
    entries: list[str]
    seconds: float


class GraphRecords:
    def __init__(self, folder: Path, key: Mapping[str, str]) -> None:
        """folder: of the cache."""
        self._cache, self._folder = folder, folder / RECORDS
        self._key = dict(key)

    def write(self, graph: str, entries: Iterable[str], seconds: float) -> None:
        """Adds to what an earlier run with the same key has compiled for the graph."""
        before = _read(self._file(graph))
        known = before.entries if before else []
        record = Record(graph, self._key, sorted({*known, *entries}), round(seconds, 1))
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._file(graph), asdict(record))

    def why_missed(self, graph: str) -> str:
        """Compares with the record of the graph that differs in the fewest places."""
        found = [_read(file) for file in self._folder.glob(f"{_slug(graph)}-*.json")]
        differences = [_differences(record.key, self._key) for record in found if record]
        if not differences:
            return NOTHING
        least = min(differences, key=len)
        return _in_words(least) if least else self._why_unchanged(graph)

    def what_else_differs(self, graph: str, besides: Container[str]) -> str:
        """In which versions, flags or variables every record of the graph differs; "" if none does.

        For a cache whose own key may not have them: what it finds may be another compiler's.
        besides: names that change nothing which is not in the graph.
        """
        found = [_read(file) for file in self._folder.glob(f"{_slug(graph)}-*.json")]
        own = _without_config(self._key, besides)
        differences = [_differences(_without_config(one.key, besides), own) for one in found if one]
        return _in_words(min(differences, key=len)) if differences else ""

    def _why_unchanged(self, graph: str) -> str:
        record = _read(self._file(graph))
        if record and not all((self._cache / name).exists() for name in record.entries):
            return GONE
        return f"{CHANGED}, not its configuration, flags or versions"

    def _file(self, graph: str) -> Path:
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()
        return self._folder / f"{_slug(graph)}-{digest[:16]}.json"


def _slug(graph: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", graph.lower())


def _read(file: Path) -> Record | None:
    """None for what is absent or damaged: then a miss has no better reason."""
    try:
        return Record(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Name -> "old -> new"."""
    return {
        name: f"{old.get(name, ABSENT)} -> {new.get(name, ABSENT)}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    }


def _without_config(key: Mapping[str, str], besides: Container[str]) -> dict[str, str]:
    return {name: value for name, value in key.items() if "." not in name and name not in besides}


def _in_words(differences: Mapping[str, str]) -> str:
    config = [f"{name} {change}" for name, change in differences.items() if "." in name]
    parts = [_own(name, change) for name, change in differences.items() if "." not in name]
    if config:
        parts.append(f"{CHANGED} (config differs: {', '.join(config)})")
    return "; ".join(parts)


def _own(name: str, change: str) -> str:
    if name == "rank":
        return f"only another rank's cache has it ({name} {change})"
    return f"flags differ: {change}" if name == "flags" else f"{name} {change}"

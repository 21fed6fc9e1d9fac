"""Runs what was recorded, says so while it compiles, and notices when it compiles again.

    watch = CompilationWatch(sync, num_compilations, Lookup(cache, records))
    watch.run("the training step", note)

A compiler may take minutes for a large graph; without a line the run looks hung. A step whose
shapes and constants are static compiles at most twice: the second time because what the first one
left behind lies in other buffers.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from ndtrain.runtime.graph_cache import GraphCache
from ndtrain.runtime.graph_records import GraphRecords
from ndtrain.runtime.heartbeat import HEARTBEAT_S, Note, heartbeat

SETTLED = 2  # runs of a graph after which another compilation is worth a warning
HIT = "hit"
UNLOADABLE = "hit, but it could not be loaded"


class Compiled(NamedTuple):
    """A graph that was not in this process yet.

    seconds: with the run that asked for it. verdict: HIT, UNLOADABLE, "miss: why", or "" without a
    cache.
    """

    name: str
    seconds: float
    verdict: str

    def __str__(self) -> str:
        if self.verdict == HIT:
            return f"{self.name}: hit in the compile cache, ready in {self.seconds:.1f} s"
        verdict = f" ({self.verdict})" if self.verdict else ""
        return f"compiled {self.name} in {self.seconds:.1f} s{verdict}"


class Lookup:
    """What the cache had for the graphs of one run."""

    def __init__(self, cache: GraphCache, records: GraphRecords) -> None:
        self._cache, self._records = cache, records
        self.begin("", 0)

    def begin(self, name: str, num_runs: int) -> None:
        """num_runs: of the graph in this process, this one included."""
        self._name, self._num_runs = name, num_runs
        self._hits, self._misses = self._cache.num_hits(), self._cache.num_misses()
        self._unloadable = self._cache.num_unloadable()
        self._entries = self._cache.entries()
        self._miss = ""

    @property
    def has_hit(self) -> bool:
        return self._cache.num_hits() > self._hits

    def miss(self) -> str:
        """Why something was not found; "" as long as nothing was missed."""
        if not self._miss and self._cache.num_misses() > self._misses:
            self._miss = f"miss: {self._why()}"
        return self._miss

    def end(self, seconds: float) -> str:
        """The verdict on what was compiled or loaded."""
        verdict = self.miss() or (HIT if self._could_load() else UNLOADABLE)
        self._records.write(self._name, self._cache.entries() - self._entries, seconds)
        return verdict

    def _could_load(self) -> bool:
        return self._cache.num_unloadable() == self._unloadable

    def _why(self) -> str:
        if self._num_runs > 1:
            return f"run {self._num_runs} is another graph than the runs before"
        return self._records.why_missed(self._name)


class CompilationWatch:
    def __init__(
        self,
        run: Callable[[], None],
        num_compilations: Callable[[], int],
        lookup: Lookup | None = None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """run: executes what is recorded. num_compilations: of this process so far."""
        self.compiled: list[Compiled] = []
        self._run = run
        self._num_compilations = num_compilations
        self._lookup = lookup
        self._heartbeat_s = heartbeat_s
        self._num_runs: Counter[str] = Counter()

    def run(self, name: str, note: Note) -> None:
        """name: of the graph, as a person would call it."""
        self._num_runs[name] += 1
        before, start = self._num_compilations(), time.monotonic()
        if self._lookup is not None:
            self._lookup.begin(name, self._num_runs[name])
        with heartbeat(lambda seconds: self._so_far(name, seconds), note, self._heartbeat_s):
            self._run()
        # torch-xla does not count what its own cache had as compiled.
        was_loaded = self._lookup is not None and self._lookup.has_hit
        if self._num_compilations() == before and not was_loaded:
            return
        seconds = time.monotonic() - start
        verdict = self._lookup.end(seconds) if self._lookup is not None else ""
        self.compiled.append(Compiled(name, seconds, verdict))
        note(str(self.compiled[-1]))
        if self._num_runs[name] > SETTLED:
            note(compiled_again(name, self._num_runs[name]))

    def _so_far(self, name: str, seconds: float) -> str:
        miss = self._lookup.miss() if self._lookup is not None else ""
        return f"compiling {name}: {seconds:.0f} s so far" + (f" ({miss})" if miss else "")


def compiled_again(name: str, num_runs: int) -> str:
    """A warning. num_runs: of what has the name, this one included."""
    return (
        f"warning: {name} was compiled again in its {num_runs}. run:"
        " a shape or a constant in it changes"
    )

"""Says what is compiled while a part of a run runs for the first times, operation by operation.

    first_runs = FirstRuns(cache, records, torch.neuron.synchronize)
    with first_runs.part("the training step", note):
        ...

Where every operation is a graph of its own, what a person can name is the part of the run that
asked for them. A part is watched until it has run SETTLED times in a row with nothing new; until
then its runs end when the device has ended them. Afterwards it costs two looks at the clock, and a
run that is slow beyond its kind has the cache looked at again. Whether torch-neuronx lets other
threads speak while it compiles was never seen.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from ndtrain.runtime.compilation import SETTLED, compiled_again
from ndtrain.runtime.graph_counts import CountedGraphs, Counts
from ndtrain.runtime.graph_records import GraphRecords
from ndtrain.runtime.heartbeat import HEARTBEAT_S, Note, heartbeat

SLOW = 3  # times what a part took at most when nothing was new
NOT_FOUND = "it was not there"
_IN_THE_GRAPH = ("ndtrain", "torch")  # whose other versions make other graphs or the same


class PartRun(NamedTuple):
    """A run of a part that met something new, or the first one.

    miss: why something was not in the cache, "" if nothing was missed. caution: in what the cached
    graphs' compiler may have been another.
    """

    name: str
    seconds: float
    counts: Counts
    miss: str
    caution: str = ""

    @property
    def verdict(self) -> str:
        if self.miss:
            return f"miss: {self.miss}; {self.counts}{self._caution}"
        if self.counts.compiled:  # without a cache
            return str(self.counts)
        if self.counts.found:
            return f"hit; {self.counts.found} graphs{self._caution}"
        if self.counts.found is None:
            return "nothing was added to the compile cache"
        return "nothing was compiled"

    def __str__(self) -> str:
        if self.miss or self.counts.compiled:
            return f"compiled {self.name} in {self.seconds:.1f} s ({self.verdict})"
        if self.counts.found:
            ready = f"{self.counts.found} graphs ready in {self.seconds:.1f} s"
            return f"{self.name}: hit in the compile cache, {ready}{self._caution}"
        return f"{self.name}: ready in {self.seconds:.1f} s, {self.verdict}"

    @property
    def _caution(self) -> str:
        """torch-neuronx names an entry by the graph before its compiler, as its sources say."""
        return f"; warning: found what others compiled ({self.caution})" if self.caution else ""


@dataclass
class _Part:
    num_runs: int = 0
    num_quiet: int = 0  # runs in a row with nothing new
    usual_s: float = 0.0  # the longest of these


class FirstRuns:
    def __init__(
        self,
        cache: CountedGraphs,
        records: GraphRecords | None,
        synchronize: Callable[[], None],
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """records: of one rank a node, None for the others. synchronize: waits for the device."""
        self.compiled: list[PartRun] = []
        self._cache, self._records = cache, records
        self._synchronize = synchronize
        self._heartbeat_s = heartbeat_s
        self._parts: dict[str, _Part] = defaultdict(_Part)
        self._known = cache.entries()

    def part(self, name: str, note: Note) -> AbstractContextManager[None]:
        """Around one run of what a person would call by the name."""
        part = self._parts[name]
        part.num_runs += 1
        if part.num_quiet < SETTLED:
            return self._watched(name, part, note)
        return self._timed(name, part, note)

    @contextmanager
    def _watched(self, name: str, part: _Part, note: Note) -> Iterator[None]:
        with self._cache.counting():
            before, start = self._cache.counts(), time.monotonic()

            def so_far(seconds: float) -> str:
                return self._so_far(name, part, self._cache.counts().since(before), seconds)

            with heartbeat(so_far, note, self._heartbeat_s):
                yield
                self._synchronize()  # else what it asked for is compiled during the next part
            counts, seconds = self._cache.counts().since(before), time.monotonic() - start
        self._judge(name, part, counts, seconds, note)

    def _so_far(self, name: str, part: _Part, counts: Counts, seconds: float) -> str:
        if counts.missed:
            miss = f"(miss: {self._why(name, part)}; {counts})"
            return f"compiling {name}: {seconds:.0f} s so far {miss}"
        return f"{name}, run {part.num_runs}: {seconds:.0f} s so far, {counts}"

    def _judge(self, name: str, part: _Part, counts: Counts, seconds: float, note: Note) -> None:
        new = self._new_entries()
        if counts.is_nothing and not new:
            part.num_quiet += 1
            part.usual_s = max(part.usual_s, seconds)
        else:
            part.num_quiet = 0
        miss = self._why(name, part) if counts.missed else ""
        caution = self._caution(name) if counts.found_at_once else ""
        is_first = part.num_runs == 1
        if not caution and (new or is_first):
            self._record(name, new, seconds, note)
        if is_first or not counts.is_nothing:
            self.compiled.append(PartRun(name, seconds, counts, miss, caution))
        if (is_first and counts.found is None) or not counts.is_nothing:
            note(str(self.compiled[-1]))
        if counts.missed and part.num_runs > SETTLED:
            note(compiled_again(name, part.num_runs))

    def _record(self, name: str, new: frozenset[str], seconds: float, note: Note) -> None:
        if self._records is None:
            return
        try:
            self._records.write(name, new, seconds)
        except OSError as error:
            note(f"warning: a later miss will not say why: {error}")
            self._records = None

    @contextmanager
    def _timed(self, name: str, part: _Part, note: Note) -> Iterator[None]:
        start = time.monotonic()
        yield
        seconds = time.monotonic() - start
        if seconds <= max(self._heartbeat_s, SLOW * part.usual_s):
            return
        new = self._new_entries()
        if new:
            note(
                f"warning: {name} took {seconds:.0f} s, and the compile cache has {len(new)} new"
                " entries: a shape or a constant changes, or another run fills it"
            )

    def _new_entries(self) -> frozenset[str]:
        """Since the last look, of all ranks: what another rank adds late belongs to the next."""
        entries = self._cache.entries()
        new, self._known = entries - self._known, entries
        return new

    def _why(self, name: str, part: _Part) -> str:
        if part.num_runs > 1:
            return f"run {part.num_runs} has graphs that the runs before had not"
        return NOT_FOUND if self._records is None else self._records.why_missed(name)

    def _caution(self, name: str) -> str:
        return "" if self._records is None else self._records.what_else_differs(name, _IN_THE_GRAPH)

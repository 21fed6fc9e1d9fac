"""Runs what was recorded, says so while it compiles, and notices when it compiles again.

    watch = CompilationWatch(sync, num_compilations)
    watch.run("the training step", note)

A compiler may take minutes for a large graph; without a line the run looks hung. A step whose
shapes and constants are static compiles at most twice: the second time because what the first one
left behind lies in other buffers.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Note = Callable[[str], None]

HEARTBEAT_S = 10.0
SETTLED = 2  # runs of a graph after which another compilation is worth a warning


class CompilationWatch:
    def __init__(
        self,
        run: Callable[[], None],
        num_compilations: Callable[[], int],
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """run: executes what is recorded. num_compilations: of this process so far."""
        self._run = run
        self._num_compilations = num_compilations
        self._heartbeat_s = heartbeat_s
        self._num_runs: Counter[str] = Counter()

    def run(self, name: str, note: Note) -> None:
        """name: of the graph, as a person would call it."""
        self._num_runs[name] += 1
        before, start = self._num_compilations(), time.monotonic()
        with self._heartbeat(name, note):
            self._run()
        if self._num_compilations() == before:
            return
        note(f"compiled {name} in {time.monotonic() - start:.1f} s")
        if self._num_runs[name] > SETTLED:
            note(
                f"warning: {name} was compiled again in its {self._num_runs[name]}. run:"
                " a shape or a constant in it changes"
            )

    @contextmanager
    def _heartbeat(self, name: str, note: Note) -> Iterator[None]:
        is_done = threading.Event()

        def beat() -> None:
            start = time.monotonic()
            while not is_done.wait(self._heartbeat_s):
                note(f"compiling {name}: {time.monotonic() - start:.0f} s so far")

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_done.set()
            thread.join()

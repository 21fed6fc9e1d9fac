"""Ends a run that hangs, and says where: stacks, last collectives, the rank that is missing.

    watchdog = Watchdog(runtime, run_directory, status)
    with watchdog.phase("save", seconds=1800):
        ...
    watchdog.enter("step", seconds=600)        # until the next phase; each call is progress

A collective that ends is progress too: a slow phase is no hang while the ranks talk. A thread
looks; it needs no cooperation of the hung one. Every rank has its own, so the others tell
about a rank that is stopped. What they say is in `log/hang.txt`; stacks are in each rank's log.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ndtrain.observe.run_directory import RunDirectory
from ndtrain.runtime.flight import FlightFile, diagnose, read_flight
from ndtrain.runtime.runtime import Runtime

EXIT_HUNG = 1
LINGER_S = 2.0  # for the other ranks, whose deadlines pass about now, to write their stacks


class Watchdog:
    def __init__(self, runtime: Runtime, run: RunDirectory, on_hang: Callable[[str], None]) -> None:
        """on_hang: told the diagnosis on the first rank to find it, before the process ends."""
        self._run = run
        self._rank = runtime.mesh.world.rank
        self._ranks = runtime.mesh.world.ranks
        self._on_hang = on_hang
        self._recorders = list(runtime.flights.values())
        self._flight = FlightFile(flight_path(run, self._rank), self._rank)
        for lane, recorder in runtime.flights.items():
            recorder.move_to(self._flight.lane(lane))
        if self._rank == 0:
            hang_path(run).unlink(missing_ok=True)
        self._phase = ""
        self._seconds = 0.0
        self._deadline: float | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def enter(self, phase: str, seconds: float) -> None:
        """What happens now, and how long it may take."""
        with self._changed:
            self._phase, self._seconds = phase, seconds
            self._deadline = time.monotonic() + seconds
            self._changed.notify()

    def rest(self) -> None:
        """Nothing is expected any more."""
        with self._changed:
            self._deadline = None

    @contextmanager
    def phase(self, phase: str, seconds: float) -> Iterator[None]:
        """Afterwards the phase before begins anew."""
        before, before_s, was_on = self._phase, self._seconds, self._deadline is not None
        self.enter(phase, seconds)
        yield
        if was_on:
            self.enter(before, before_s)
        else:
            self.rest()

    def _watch(self) -> None:
        seen = self._num_calls()
        with self._changed:
            while True:
                now, calls = time.monotonic(), self._num_calls()
                if self._deadline is not None and calls != seen:
                    self._deadline = now + self._seconds
                seen = calls
                left = None if self._deadline is None else self._deadline - now
                if left is not None and left <= 0:
                    break
                # Often enough that a deadline passes at most a tenth late.
                self._changed.wait(None if left is None else min(left, self._seconds / 10))
        self._end()

    def _num_calls(self) -> int:
        """Collectives that this rank has begun; it begins one only after the last has ended."""
        return sum(recorder.sequence for recorder in self._recorders)

    def _end(self) -> None:
        where = f"no progress in `{self._phase}` for {self._seconds:g} s"
        with self._run.log_file(self._rank).open("a") as log:
            print(f"watchdog: {where}; stacks:", file=log, flush=True)
            faulthandler.dump_traceback(log, all_threads=True)
        text = f"{where}\n{self.diagnosis()}"
        try:
            with hang_path(self._run).open("x") as report:
                report.write(text + "\n")
        except FileExistsError:
            pass
        else:
            print(f"error: {text}", file=sys.stderr)
            print(f"  help: stacks are in {self._run.path / 'log'}", file=sys.stderr, flush=True)
            self._on_hang(text)
        time.sleep(LINGER_S)
        os._exit(EXIT_HUNG)

    def diagnosis(self) -> str:
        """What the ranks' collectives say."""
        paths = {rank: flight_path(self._run, rank) for rank in self._ranks}
        return diagnose({rank: read_flight(path) for rank, path in paths.items() if path.exists()})


def flight_path(run: RunDirectory, rank: int) -> Path:
    return run.log_file(rank).with_suffix(".flight")


def hang_path(run: RunDirectory) -> Path:
    return run.path / "log" / "hang.txt"

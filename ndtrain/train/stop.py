"""Who asks a run to save or to stop, and which request counts.

    requests = StopRequests(run_directory.path, max_minutes=None, is_first_rank=True)
    requests.listen()                  # signals TERM, USR1, INT; before anything slow
    requests.pending()                 # this rank's view, joined over the ranks by their maximum

A handler only takes note. Ranks compare notes once a step, in a collective that they call anyway,
so a request to any one rank becomes one decision of all, at one step.
"""

import os
import signal
import threading
import time
from enum import IntEnum
from pathlib import Path
from types import FrameType

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: start it again
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
STOP_FILE, SAVE_FILE = "STOP", "SAVE"

LAUNCHER = "NDTRAIN_LAUNCHER"  # process id of the launcher, in the environment of its ranks


class Request(IntEnum):
    """In the order of their weight: of several the last one counts."""

    NONE = 0
    SAVE = 1
    BUDGET = 2
    FILE = 3
    USR1 = 4
    ORPHANED = 5
    TERM = 6
    INTERRUPT = 7

    @property
    def stops(self) -> bool:
        return self > Request.SAVE

    @property
    def reason(self) -> str:
        return {
            Request.BUDGET: "train.max_minutes is over",
            Request.FILE: f"the file {STOP_FILE} was there",
            Request.USR1: "signal USR1",
            Request.ORPHANED: "the launcher of a rank is gone",
            Request.TERM: "signal TERM",
            Request.INTERRUPT: "Ctrl-C",
        }[self]


_SIGNALS = {
    signal.SIGTERM: Request.TERM,
    signal.SIGUSR1: Request.USR1,
    signal.SIGINT: Request.INTERRUPT,
}


class StopRequests:
    def __init__(self, run_directory: Path, max_minutes: float | None, is_first_rank: bool) -> None:
        """The budget counts from here. The first rank alone looks for the files."""
        self._folder = run_directory if is_first_rank else None
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._signalled = Request.NONE
        launcher = os.environ.get(LAUNCHER)
        self._is_ours = launcher is not None
        self._launcher = int(launcher) if launcher else _torchrun()

    def listen(self) -> None:
        """Takes the signals over; only the main thread may, elsewhere nothing happens."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._note)

    def pending(self) -> Request:
        return max(self._signalled, self._from_files(), self._from_clock(), self._from_launcher())

    def settle(self, request: Request) -> None:
        """Called when the request was met: its file has done its work."""
        if self._folder is not None and request is not Request.NONE:
            (self._folder / SAVE_FILE).unlink(missing_ok=True)
            if request.stops:
                (self._folder / STOP_FILE).unlink(missing_ok=True)

    def _note(self, number: int, frame: FrameType | None) -> None:
        request = _SIGNALS[signal.Signals(number)]
        is_second = request is Request.INTERRUPT and self._signalled is Request.INTERRUPT
        # Under our launcher it is the launcher that counts: a terminal may signal both.
        if is_second and not self._is_ours:
            os._exit(EXIT_INTERRUPTED)
        self._signalled = max(self._signalled, request)

    def _from_files(self) -> Request:
        if self._folder is None:
            return Request.NONE
        if (self._folder / STOP_FILE).exists():
            return Request.FILE
        return Request.SAVE if (self._folder / SAVE_FILE).exists() else Request.NONE

    def _from_clock(self) -> Request:
        is_over = self._deadline is not None and time.monotonic() > self._deadline
        return Request.BUDGET if is_over else Request.NONE

    def _from_launcher(self) -> Request:
        # A rank whose launcher was killed has another parent: nobody would ever stop it.
        is_orphan = self._launcher is not None and os.getppid() != self._launcher
        return Request.ORPHANED if is_orphan else Request.NONE


def _torchrun() -> int | None:
    """Its process id, if it has started this process."""
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


def exit_code(request: Request, is_saved: bool) -> int:
    """Of a run that was asked to stop."""
    if request is Request.INTERRUPT:
        return EXIT_INTERRUPTED
    return EXIT_TERMINATED if request is Request.TERM and not is_saved else EXIT_STOPPED

"""The processes of local ranks: started, signalled and ended by the launcher.

    ranks = Ranks(command, num_ranks=2, environment)
    code = ranks.wait()             # of the rank that failed first, 0 if none did

Why not torch's elastic agent: it answers TERM and INT by killing its workers after 30 s and turns
their exit codes into its own, and a save may take longer and has something to say.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from ndtrain.core.errors import UserError
from ndtrain.train.stop import EXIT_INTERRUPTED, EXIT_STOPPED, EXIT_TERMINATED, LAUNCHER

POLL_S = 0.05
GRACE_S = 10.0  # for the others, once one rank has failed: they may be writing why

# What is passed on, and the code of a rank that it ends before it listens.
_UNHEARD = {
    signal.SIGTERM: EXIT_TERMINATED,
    signal.SIGUSR1: EXIT_STOPPED,
    signal.SIGINT: EXIT_INTERRUPTED,
}
_NO_FAILURE = (0, EXIT_STOPPED, EXIT_INTERRUPTED)


class Ranks:
    def __init__(self, command: Sequence[str], num_ranks: int, environment: dict[str, str]) -> None:
        """Starts them, in sessions of their own: a terminal's Ctrl-C reaches this process alone."""
        self.died = ""  # a sentence about the first rank that a signal ended
        self._interrupts = 0
        self._forwarded: set[int] = set()
        common = {**environment, "WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
        common[LAUNCHER] = str(os.getpid())
        self._processes: list[subprocess.Popen] = []
        for number in _UNHEARD:
            signal.signal(number, self._forward)
        for rank in range(num_ranks):
            own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            self._processes.append(subprocess.Popen(command, env=own, start_new_session=True))

    def wait(self) -> int:
        """Until all have ended; kills what is left GRACE_S after a failure."""
        failed_at, first_code = 0.0, 0
        try:
            while True:
                codes = [process.poll() for process in self._processes]
                failures = [
                    (rank, code)
                    for rank, code in enumerate(codes)
                    if code is not None and code not in _NO_FAILURE
                ]
                if failures and not failed_at:
                    failed_at = time.monotonic()
                    first_code = self._code_of(*failures[0])
                if all(code is not None for code in codes):
                    return first_code or max(code for code in codes if code is not None)
                if failed_at and time.monotonic() > failed_at + GRACE_S:
                    self._kill()
                time.sleep(POLL_S)
        finally:
            self._kill()

    def _code_of(self, rank: int, code: int) -> int:
        if code >= 0:
            return code
        if -code in self._forwarded:
            return _UNHEARD[signal.Signals(-code)]  # before it could listen
        self.died = f"rank {rank} was ended by {signal.Signals(-code).name}"
        help_text = "SIGKILL is often the system's answer to lack of memory; look at `dmesg`"
        error = UserError(self.died, "", help_text if code == -signal.SIGKILL else "")
        print(error, file=sys.stderr, flush=True)
        return 1

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        self._forwarded.add(number)
        if self._interrupts > 1:
            self._kill()
            os._exit(EXIT_INTERRUPTED)
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def _kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()

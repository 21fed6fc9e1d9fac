"""Says every few seconds that something still runs, from a thread of its own.

with heartbeat(lambda seconds: f"compiling: {seconds:.0f} s so far", note, every_s=10.0):
    ...
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Note = Callable[[str], None]

HEARTBEAT_S = 10.0


@contextmanager
def heartbeat(line: Callable[[float], str], note: Note, every_s: float) -> Iterator[None]:
    """line: what is said after so many seconds. Nothing is said after the block."""
    is_done = threading.Event()

    def beat() -> None:
        start = time.monotonic()
        while not is_done.wait(every_s):
            note(line(time.monotonic() - start))

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()

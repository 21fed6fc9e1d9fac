"""Says every few seconds that something still runs.

with heartbeat(lambda seconds: f"compiling: {seconds:.0f} s so far", note, every_s=10.0):
    ...
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from ndtrain.core.repeat import repeating

Note = Callable[[str], None]

HEARTBEAT_S = 10.0


def heartbeat(
    line: Callable[[float], str], note: Note, every_s: float
) -> AbstractContextManager[None]:
    """line: what is said after so many seconds. Nothing is said after the block."""
    start = time.monotonic()
    return repeating(lambda: note(line(time.monotonic() - start)), every_s, "heartbeat")

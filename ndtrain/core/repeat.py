"""Does something again and again beside a block, from a thread of its own.

with repeating(publish, every_s=60.0, name="compile cache"):
    ...
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(action: Callable[[], None], every_s: float, name: str) -> Iterator[None]:
    """The first time after every_s; none begins after the block. name: of the thread."""
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(every_s):
            action()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()

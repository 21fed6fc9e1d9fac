"""The threads that move bytes give way to those that compute.

    let_transfers_give_way()        # after the process groups are made

gloo's threads wake for every segment that arrives, dozens of times for 2 MB on a link of 1 Gbit/s,
and each time a product that runs loses its core and what it had in the caches. With a lower
priority they take what has come together when the scheduler lets them, and at once when compute
waits. The contestant `beside` of `ndtrain bench overlap` shows what is left of the cost.
"""

import os
import sys
from pathlib import Path

NICENESS = 10  # a tenth of the weight of a thread that computes: at 1 Gbit/s it needs about that


def let_transfers_give_way() -> int:
    """Lowers the priority of this process's threads of gloo; returns how many there are.

    Does nothing where threads have no priority of their own (it is so on Linux alone), or where
    ranks share cores: there a transfer would also give way to another rank, which waits for it.
    """
    if sys.platform != "linux" or _num_local_ranks() > len(os.sched_getaffinity(0)):
        return 0
    threads = [thread for thread in Path("/proc/self/task").iterdir() if _moves_bytes(thread)]
    for thread in threads:
        os.setpriority(os.PRIO_PROCESS, int(thread.name), NICENESS)
    return len(threads)


def _moves_bytes(thread: Path) -> bool:
    try:
        return (thread / "comm").read_text().startswith("gloo")
    except FileNotFoundError:  # it has just ended
        return False


def _num_local_ranks() -> int:
    """Set by every launcher; without it the process is one of unknown others."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", sys.maxsize))

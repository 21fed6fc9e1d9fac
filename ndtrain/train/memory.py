"""Resident memory of this process, in GiB, and the machine's."""

import os
import resource
import sys

GIB = 2**30


def resident_gib() -> float:
    """Now, on Linux; elsewhere the largest so far, which is what the system tells."""
    try:
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / GIB
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest * (1 if sys.platform == "darwin" else 1024) / GIB


def machine_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB

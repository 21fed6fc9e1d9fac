"""Faults on demand, for drills: what a run does when it is killed or its disk is full, right here.

    reach("save.file_written")      # in the code: a point at which a drill may strike

    NDTRAIN_FAULT=save.file_written:kill ndtrain train quickstart            # any rank, first time
    NDTRAIN_FAULT=save.file_written:ENOSPC:rank=1:times=2 ndtrain train ...  # rank 1, twice

Actions: kill (SIGKILL to itself), stop (SIGSTOP), raise (an exception), hang (sleeps for ever),
slow (sleeps for `seconds=S`, 1 by default), an errno name (an OSError). `after=N` lets N visits
pass, `times=N` strikes N times, `rank=R` on rank R alone. Without the variable a point costs one
look into a dictionary.
"""

import errno
import os
import signal
import time
from collections import Counter

VARIABLE = "NDTRAIN_FAULT"

_visits: Counter[str] = Counter()


def reach(point: str) -> None:
    """Strikes if the environment asks for it. Raises OSError or RuntimeError as asked."""
    plan = os.environ.get(VARIABLE)
    if plan is None:
        return
    wanted, action, *options = plan.split(":")
    if wanted != point:
        return
    limits = dict(option.split("=") for option in options)
    if limits.get("rank", os.environ.get("RANK", "0")) != os.environ.get("RANK", "0"):
        return
    _visits[point] += 1
    visit = _visits[point] - int(limits.get("after", 0))
    if 1 <= visit <= int(limits.get("times", 1)):
        _strike(point, action, float(limits.get("seconds", 1)))


def _strike(point: str, action: str, seconds: float) -> None:
    if action in ("kill", "stop"):
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
    elif action in ("hang", "slow"):
        time.sleep(1e9 if action == "hang" else seconds)
    elif action == "raise":
        raise RuntimeError(f"a drill at {point}")
    else:
        code = getattr(errno, action)
        raise OSError(code, os.strerror(code), point)

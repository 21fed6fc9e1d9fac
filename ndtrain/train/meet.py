"""Where the ranks of a run meet, before anything is collective: who does not come is named.

    store = meet(rank=3, world_size=128, place=None)        # None: where torchrun says
    dist.init_process_group("gloo", store=store, rank=3, world_size=128)

The process group's own limit is that of a long compilation, and its error counts ranks without
naming them. Here a rank that hangs in an import, or on a file system, ends the run after MEET_S.
"""

import os
import socket
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ndtrain.core.errors import UserError
from ndtrain.train.agree import Bystander

MEET_S = 600.0  # torchrun waits as long for the nodes themselves
_ALL = "ndtrain/all"
_NAMED = 8  # absent ranks, before they are only counted


def meet(rank: int, world_size: int, place: str | None, limit_s: float = MEET_S) -> dist.Store:
    """place: an init_method of torch.distributed. Waits for all ranks, for limit_s at the most.

    Raises UserError that names the absent ones, on the first rank that is there and on the first of
    each node; Bystander on the others.
    """
    limit = timedelta(seconds=limit_s)
    url = "env://" if place is None else place
    store, _, _ = next(rendezvous(url, rank, world_size, timeout=limit))
    store.set(_key(rank), socket.gethostname())
    # The last one says so: waiting for every rank's key would be a product of ranks and ranks.
    if store.add("ndtrain/number", 1) == world_size:
        store.set(_ALL, "1")
    try:
        store.wait([_ALL], limit)
    except RuntimeError:
        here = [other for other in range(world_size) if store.check([_key(other)])]
        # A job's log has the output of each node's first rank.
        if rank == here[0] or os.environ.get("LOCAL_RANK") == "0":
            raise _absent(here, world_size, limit_s) from None
        raise Bystander(UserError.exit_code) from None
    return store


def _key(rank: int) -> str:
    return f"ndtrain/here/{rank}"


def _absent(here: list[int], world_size: int, limit_s: float) -> UserError:
    absent = [rank for rank in range(world_size) if rank not in here]
    named = ", ".join(map(str, absent[:_NAMED]))
    more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
    return UserError(
        f"{len(absent)} of {world_size} ranks did not come within {limit_s:g} s: {named}{more}",
        f"the start of the run, on {socket.gethostname()}",
        "their output says what they wait for; `py-spy dump --pid PID` on their node shows it",
    )

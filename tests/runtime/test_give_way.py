"""The threads that move bytes have a lower priority than those that compute, where it is safe."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ndtrain.runtime import give_way
from ndtrain.runtime.give_way import NICENESS, let_transfers_give_way
from ndtrain.runtime.runtime import start_cpu
from tests.rank_pool import ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority here")


def priorities(_: int, num_local_ranks: str) -> dict[str, set[int]]:
    """Niceness of gloo's threads and of all others, after a runtime has started."""
    os.environ["LOCAL_WORLD_SIZE"] = num_local_ranks
    try:
        start_cpu(2, 1, num_kv_heads=1)
    finally:
        del os.environ["LOCAL_WORLD_SIZE"]
    found: dict[str, set[int]] = {"gloo": set(), "other": set()}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            kind = "gloo" if (thread / "comm").read_text().startswith("gloo") else "other"
            found[kind].add(os.getpriority(os.PRIO_PROCESS, int(thread.name)))
    return found


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two ranks would share a core")
def test_transfers_give_way_to_compute() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for found in ranks(2).run(priorities, "2"):
        assert found["other"] == {own}
        assert found["gloo"] == {NICENESS}


def test_where_ranks_share_a_core_or_are_unknown_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(give_way, "_moves_bytes", lambda thread: True)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert let_transfers_give_way() == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(len(os.sched_getaffinity(0)) + 1))
    assert let_transfers_give_way() == 0

"""Workers take turns in a fixed order, and a standstill is reported."""

import pytest

from ndtrain.nkisim.errors import DeadlockError
from ndtrain.nkisim.scheduler import Scheduler


def test_the_interleaving_is_always_the_same() -> None:
    def once() -> list[str]:
        scheduler, log = Scheduler(3), []

        def worker(i: int) -> None:
            for step in range(2):
                log.append(f"{i}.{step}")
                scheduler.meet(i, step, 3, None, lambda _: None, f"{i}")

        scheduler.run(worker)
        return log

    assert once() == ["0.0", "1.0", "2.0", "2.1", "0.1", "1.1"]
    assert all(once() == once() for _ in range(3))


def test_the_last_one_to_come_acts_for_all() -> None:
    scheduler = Scheduler(3)
    results = scheduler.run(
        lambda i: scheduler.meet(i, "sum", 3, i + 1, lambda p: sum(p.values()), f"{i}")
    )
    assert results == [6, 6, 6]


def test_a_standstill_names_who_waits_for_what() -> None:
    scheduler = Scheduler(3)

    def worker(i: int) -> None:
        if i < 2:
            scheduler.meet(i, i, 2, None, lambda _: None, f"worker {i} at gate {i}")

    with pytest.raises(DeadlockError, match=r"worker 0 at gate 0; worker 1 at gate 1; 1 finished"):
        scheduler.run(worker)


def test_a_failure_ends_the_others() -> None:
    scheduler = Scheduler(2)

    def worker(i: int) -> None:
        if i == 1:
            raise RuntimeError("broken")
        scheduler.meet(i, "never", 2, None, lambda _: None, "worker 0")

    with pytest.raises(RuntimeError, match="broken"):
        scheduler.run(worker)

"""Cooperative, deterministic execution of several cores and ranks.

Each worker is a thread, but only the one that holds the turn runs; it gives the turn up only when
it waits for others, and the turn goes round in a fixed order. So a run has one interleaving, and a
state in which everyone waits is a deadlock that can be reported instead of a hang.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from ndtrain.nkisim.errors import DeadlockError


@dataclass
class Meeting:
    """Workers that wait for each other under one key."""

    expected: int
    payloads: dict[int, Any] = field(default_factory=dict)
    result: Any = None
    done: bool = False


class Scheduler:
    """Runs `count` workers in turn."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._turn = 0
        self._condition = threading.Condition()
        self._waiting: dict[int, tuple[Hashable, str]] = {}
        self._finished: set[int] = set()
        self._meetings: dict[Hashable, Meeting] = {}
        self._failure: BaseException | None = None

    def run(self, worker: Callable[[int], Any]) -> list[Any]:
        """`worker(i)` for every i; returns their results, raises the first failure."""
        if self.count == 1:
            return [worker(0)]
        results: list[Any] = [None] * self.count
        threads = []
        for i in range(self.count):
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run, args=(self._guard, i, worker, results), daemon=True
            )
            threads.append(thread)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return results

    def _guard(self, i: int, worker: Callable[[int], Any], results: list[Any]) -> None:
        try:
            self._await_turn(i)
            results[i] = worker(i)
        except _Stopped:
            pass
        except BaseException as error:
            with self._condition:
                self._failure = self._failure or error
        finally:
            with self._condition:
                self._finished.add(i)
                self._pass_turn(i)

    def _await_turn(self, i: int) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._turn == i or self._failure is not None)
            if self._failure is not None:
                raise _Stopped

    def _pass_turn(self, i: int) -> None:
        """Give the turn to the next worker that can run. The caller holds the condition."""
        for step in range(1, self.count + 1):
            other = (i + step) % self.count
            if other in self._finished or other in self._waiting:
                continue
            self._turn = other
            break
        else:
            if self._waiting and self._failure is None:
                self._failure = self._deadlock()
        self._condition.notify_all()

    def _deadlock(self) -> DeadlockError:
        waits = "; ".join(f"{what}" for _, (_, what) in sorted(self._waiting.items()))
        ended = f"; {len(self._finished)} finished" if self._finished else ""
        return DeadlockError(
            f"every core waits for another: {waits}{ended}",
            help="all cores of a group have to reach the same barrier, sendrecv or collective",
        )

    def meet(
        self, i: int, key: Hashable, expected: int, payload: Any,
        action: Callable[[dict[int, Any]], Any], what: str,
    ) -> Any:  # fmt: skip
        """Wait until `expected` workers came to `key`; the last one runs `action(payloads)`."""
        meeting = self._meetings.setdefault(key, Meeting(expected))
        meeting.payloads[i] = payload
        if len(meeting.payloads) == meeting.expected:
            meeting.result = action(meeting.payloads)
            meeting.done = True
            del self._meetings[key]
            with self._condition:
                for other in meeting.payloads:
                    self._waiting.pop(other, None)
            return meeting.result
        # Each instruction that meets others has checked that they exist.
        assert self.count > 1, what
        with self._condition:
            self._waiting[i] = (key, what)
            self._pass_turn(i)
        self._await_turn(i)
        assert meeting.done
        return meeting.result


class _Stopped(BaseException):
    """Ends a worker after another one failed."""

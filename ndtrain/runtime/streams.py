"""Streams of transfers of the host: in a thread with groups of their own, or inline.

    pending = streams["gather"].submit("qkv", lambda c: c.all_gather(x, axis, "qkv"))
    y = pending.wait()         # raises StreamError with the name if it failed or hung

What is submitted to one stream runs in that order. A background stream's process groups are used by
its thread alone, so its collectives cannot mix with those of another stream or of the main thread.
A device's own streams are in `device_streams.py`.
"""

import queue
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from ndtrain.runtime.collectives import Collectives

TIMEOUT_S = 600.0  # what takes longer than this is taken for lost

Work = Callable[[Collectives], Any]  # most often a tensor


class StreamError(RuntimeError):
    """An operation of a stream failed or did not end; the message begins with its name."""


class Pending(ABC):
    """A value that is on its way, most often a tensor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._value: Any = None
        self._error: BaseException | None = None

    @abstractmethod
    def wait(self) -> Any:
        """The value, for what its caller computes from now on."""

    @abstractmethod
    def wait_until_ended(self) -> None:
        """Well or badly: what it read may be changed now, what it wrote on the host be read."""

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """Whether it has ended, well or badly."""

    def perform(self, work: Work, collectives: Collectives) -> None:
        """Does the work and keeps its result, or its error for whoever waits."""
        try:
            # Whether gradients are recorded is a property of the thread, and on by default.
            with torch.no_grad():
                self._value = work(collectives)
        except BaseException as error:
            self._error = error

    def _result(self) -> Any:
        if self._error is not None:
            raise StreamError(f"{self.name} failed: {self._error}") from self._error
        return self._value


class HostPending(Pending):
    """Of work that the host does itself: whoever waits is blocked until it has ended."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._done = threading.Event()

    def wait(self, timeout_s: float = TIMEOUT_S) -> Any:
        self.wait_until_ended(timeout_s)
        return self._result()

    def wait_until_ended(self, timeout_s: float = TIMEOUT_S) -> None:
        if not self._done.wait(timeout_s):
            raise StreamError(f"{self.name} has not ended after {timeout_s:.0f} s")

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def perform(self, work: Work, collectives: Collectives) -> None:
        super().perform(work, collectives)
        self._done.set()


class Stream(Protocol):
    def submit(self, name: str, work: Work) -> Pending: ...


class InlineStream:
    """Runs what it is given at once, in the caller: the serial form of any schedule."""

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives

    def submit(self, name: str, work: Work) -> Pending:
        pending = HostPending(name)
        pending.perform(work, self._collectives)
        return pending


Queue = queue.SimpleQueue[tuple[Work, HostPending] | None]


class BackgroundStream:
    """One thread that runs what it is given, in order, as long as this object lives."""

    def __init__(self, name: str, collectives: Collectives) -> None:
        self._queue: Queue = queue.SimpleQueue()
        # A daemon: a hung collective must not keep a failed run from ending. The thread knows
        # the queue and not this object, whose end is what ends it.
        arguments = (self._queue, collectives)
        thread = threading.Thread(target=_serve, args=arguments, name=f"stream-{name}", daemon=True)
        thread.start()
        weakref.finalize(self, self._queue.put, None)

    def submit(self, name: str, work: Work) -> Pending:
        pending = HostPending(name)
        self._queue.put((work, pending))
        return pending


def _serve(submitted: Queue, collectives: Collectives) -> None:
    while (item := submitted.get()) is not None:
        work, pending = item
        pending.perform(work, collectives)
        del item, work, pending  # or the last result would live until the next one


Streams = Mapping[str, Stream]  # by lane

"""Streams of a device that has its own: the host issues, events order, nothing blocks the host.

    stream = DeviceStream(collectives, torch.get_device_module("neuron"))
    pending = stream.submit("qkv", lambda c: c.all_gather(x, axis, "qkv"))
    y = pending.wait()              # what is issued from now on comes behind it; returns at once
    pending.wait_until_ended()      # the host waits for the device

`device` is a module like torch.cuda, as `torch.neuron` is (Neuron SDK, frameworks/torch): `Stream`,
`stream`, `current_stream` and the events of streams.

Memory. A caching allocator gives freed memory again in the order of the stream that it was
allocated on, whatever other streams still do with it. Two rules make that safe here, without
telling the allocator of any use (`record_stream`):

- What an operation reads is referred to until the stream that submitted it has waited for it, or
  the device has finished it. Memory of the submitting stream is not given again before.
- A side stream waits for the submitting one before each operation. So it comes behind whatever has
  read its earlier results, and may write to their memory.

An operation begins, therefore, no earlier than the compute that was issued before it: what is to be
hidden is issued first, as schedules do. The host's memory has no streams: what a stream copies from
or to it (`copies_host_memory`) is kept until the device has finished.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.streams import Pending, StreamError, Work


@dataclass(eq=False)
class Use:
    """What an operation reads or writes, kept from being freed."""

    work: Work | None  # it refers to its tensors
    event: Any  # behind the operation, on its stream

    def may_go(self) -> bool:
        return self.work is None or self.event.query()


class DevicePending(Pending):
    def __init__(self, name: str, device: Any, submitter: Any, waits_release: bool) -> None:
        """submitter: the stream that was current. waits_release: whether its waiting is enough."""
        super().__init__(name)
        self._device, self._submitter, self._waits_release = device, submitter, waits_release
        self.use: Use

    def wait(self) -> Any:
        value = self._result()
        current = self._device.current_stream()
        current.wait_event(self.use.event)
        if self._waits_release and current == self._submitter:
            self.use.work = None
        return value

    def wait_until_ended(self) -> None:
        """Raises StreamError with the name if the device reports an error."""
        try:
            self.use.event.synchronize()
        except RuntimeError as error:
            raise StreamError(f"{self.name} failed: {error}") from error
        self.use.work = None

    @property
    def is_done(self) -> bool:
        return self.use.event.query()


class DeviceStream:
    """A stream beside the current one. One host thread at a time submits."""

    def __init__(
        self, collectives: Collectives, device: Any, copies_host_memory: bool = False
    ) -> None:
        """collectives: over process groups that nothing else uses. device: the device's module."""
        self._collectives, self._device = collectives, device
        self._waits_release = not copies_host_memory
        self._stream = device.Stream()
        self._uses: deque[Use] = deque()

    def submit(self, name: str, work: Work) -> DevicePending:
        """Issues the work; an error in issuing it is raised by `wait`."""
        while self._uses and self._uses[0].may_go():
            self._uses.popleft()
        submitter = self._device.current_stream()
        pending = DevicePending(name, self._device, submitter, self._waits_release)
        self._stream.wait_stream(submitter)
        with self._device.stream(self._stream):
            pending.perform(work, self._collectives)
        pending.use = Use(work, self._stream.record_event())
        self._uses.append(pending.use)
        return pending

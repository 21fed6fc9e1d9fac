"""A device's stream in one process: what waits, what is kept, and what the watch of tests sees."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from ndtrain.core.spans import SpanRecorder
from ndtrain.overlap.collective_matmul import HALVES, MODES
from ndtrain.overlap.execute import execute
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.device_streams import DevicePending, DeviceStream
from ndtrain.runtime.mesh import Mesh
from ndtrain.runtime.runtime import Runtime, inline
from ndtrain.runtime.streams import StreamError
from tests.overlap.cases import OPERATIONS, build, inputs
from tests.overlap.lone import Loopback
from tests.runtime.stand_in_neuron import Event, StandIn, Watch
from tests.runtime.streamed_run import Forgetful

SIZE, RANK = 2, 0


def collectives() -> Collectives:
    return Collectives(Loopback(), SpanRecorder())


def stream_of(device: StandIn, **options: Any) -> DeviceStream:
    return DeviceStream(collectives(), device, **options)


def lone(device: StandIn, kind: type[DeviceStream] = DeviceStream) -> Runtime:
    main = collectives()
    streams = {lane: kind(collectives(), device) for lane in ("gather", "scatter", "dma")}
    mesh = Mesh.place(RANK, SIZE, 1)
    main.spans.enabled = False
    place = torch.device("cpu")
    return Runtime(place, mesh, main, streams, inline(main), main.spans, has_permute=False)


def run_schedules(device: StandIn, runtime: Runtime) -> Watch:
    """All operations in all forms but the rings, one after another."""
    with Watch(device) as watch:
        for operation in OPERATIONS:
            for mode in MODES:
                if mode in HALVES:
                    continue
                schedule = build(operation, mode, SIZE, RANK)
                tensors = [x.clone() for x in inputs(operation, SIZE, RANK, torch.float32)]
                outputs = execute(schedule, tensors, runtime, runtime.mesh.tensor)
                del tensors
                sum(y.sum() for y in outputs)
    return watch


def test_schedules_have_no_race() -> None:
    device = StandIn()
    assert run_schedules(device, lone(device)).races == []


def test_a_reference_that_is_dropped_early_is_a_race() -> None:
    device = StandIn()
    races = run_schedules(device, lone(device, Forgetful)).races
    assert any("may be given memory that" in race for race in races)


@pytest.mark.parametrize("broken", ["wait_event", "wait_stream"])
def test_a_wait_that_is_left_out_is_a_race(broken: str) -> None:
    device = StandIn((broken,))
    races = run_schedules(device, lone(device)).races
    assert any("does not come behind" in race for race in races)


def test_waiting_orders_the_current_stream_and_does_not_block_the_host() -> None:
    device = StandIn()
    x = torch.ones(4)
    with Watch(device) as watch:
        pending = stream_of(device).submit("double", lambda c: x * 2)
        assert not pending.is_done
        y = pending.wait() + 1
        assert not pending.is_done
    assert y.tolist() == [3.0] * 4
    assert watch.races == []
    pending.wait_until_ended()
    assert pending.is_done


def test_a_result_that_nobody_waited_for_is_a_race() -> None:
    device = StandIn()
    x = torch.ones(4)
    with Watch(device) as watch:
        pending = stream_of(device).submit("double", lambda c: x * 2)
        pending._value + 1
    assert watch.races == ["aten.add.Tensor does not come behind aten.mul.Tensor"]


def submitted(stream: DeviceStream) -> tuple[DevicePending, weakref.ref[Tensor]]:
    x = torch.ones(4)
    return stream.submit("double", lambda c: x * 2), weakref.ref(x)


def test_what_is_read_lives_until_the_submitter_has_waited() -> None:
    device = StandIn()
    pending, x = submitted(stream_of(device))
    gc.collect()
    assert x() is not None
    with device.stream(device.Stream()):
        pending.wait()  # another stream's wait orders nothing for the submitter
    assert x() is not None
    pending.wait()
    assert x() is None


def test_what_moves_to_the_host_lives_until_the_device_is_done() -> None:
    """The host's memory is given again at once when it is freed, whatever streams still do."""
    device = StandIn()
    stream = stream_of(device, copies_host_memory=True)
    with Watch(device):
        pending, x = submitted(stream)
        pending.wait()
        assert x() is not None
        del pending
        stream.submit("next", lambda c: None)
        assert x() is not None
        device.current_stream().record_event().synchronize()  # knows of the copy: it was waited for
        stream.submit("after", lambda c: None)
        assert x() is None


def test_an_error_in_issuing_has_the_name_of_the_operation() -> None:
    def fail(c: Collectives) -> Tensor:
        raise ConnectionError("the link is down")

    pending = stream_of(StandIn()).submit("qkv.gather", fail)
    pending.wait_until_ended()
    with pytest.raises(StreamError, match=r"qkv\.gather failed: the link is down"):
        pending.wait()


def test_an_error_of_the_device_has_the_name_of_the_operation(monkeypatch) -> None:
    def fail(self: Event) -> None:
        raise RuntimeError("NRT_EXEC_HW_ERR_COLLECTIVES")

    pending = stream_of(StandIn()).submit("qkv.gather", lambda c: torch.ones(1))
    monkeypatch.setattr(Event, "synchronize", fail)
    with pytest.raises(StreamError, match=r"qkv\.gather failed: NRT_EXEC_HW_ERR"):
        pending.wait_until_ended()

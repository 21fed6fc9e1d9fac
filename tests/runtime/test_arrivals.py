"""What the kernel counts as arrived tells a transfer that moves from one that is only under way."""

import dataclasses
import socket

import pytest
import torch

from ndtrain.overlap.collective_matmul import Mode, gather_matmul
from ndtrain.overlap.execute import execute
from ndtrain.runtime.arrivals import Arrivals, can_count_arrivals
from ndtrain.runtime.place import Place
from ndtrain.runtime.runtime import Runtime, start_cpu
from ndtrain.runtime.streams import BackgroundStream, InlineStream
from tests.rank_pool import ranks

pytestmark = pytest.mark.skipif(not can_count_arrivals(), reason="only Linux's kernel counts them")

ROWS, WIDTH, TIMES = 512, 512, 10
SENT = ROWS * WIDTH * 4 * TIMES


def test_what_comes_over_a_connection_is_counted_and_nothing_else() -> None:
    with socket.socket() as listening, socket.socket() as sending, socket.socketpair()[0] as local:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        sending.connect(listening.getsockname())
        receiving, _ = listening.accept()
        with receiving:
            arrivals = Arrivals()
            before = arrivals.count()
            sending.sendall(b"x" * 5000)
            assert len(receiving.recv(5000, socket.MSG_WAITALL)) == 5000
            assert local.fileno() >= 0
            assert arrivals.count() - before == 5000
            arrivals.close()
            assert arrivals.count() == 0
            sending.sendall(b"y")  # closing the count closes no connection
            assert receiving.recv(1) == b"y"


def arrived_beside_compute(rank: int, mode: Mode, is_blocking: bool) -> int:
    """Of TIMES gathers of SENT bytes in all. is_blocking: the streams are, the schedule is not."""
    runtime = start_cpu(2, 1, 2)
    if is_blocking:
        runtime = with_blocking_streams(runtime)
    schedule = gather_matmul("product", Place(rank, 2), mode)
    x, weight = torch.randn(ROWS, 1, WIDTH), torch.randn(WIDTH, WIDTH)
    arrivals = Arrivals()
    runtime.spans.arrived = arrivals.count
    for _ in range(TIMES):
        execute(schedule, (x, weight), runtime, runtime.mesh.tensor)
        runtime.collectives.barrier(runtime.mesh.world, "next")
    arrivals.close()
    return sum(span.num_bytes for span in runtime.spans.drain() if span.track == "compute")


def with_blocking_streams(runtime: Runtime) -> Runtime:
    streams = {
        lane: InlineStream(runtime.collectives) if isinstance(stream, BackgroundStream) else stream
        for lane, stream in runtime.streams.items()
    }
    return dataclasses.replace(runtime, streams=streams)


@pytest.mark.parametrize("mode", ["ring", "chunk"])
def test_overlap_is_what_brings_bytes_while_compute_runs(mode: Mode) -> None:
    assert sum(ranks(2).run(arrived_beside_compute, mode, False)) > 0.05 * 2 * SENT
    assert sum(ranks(2).run(arrived_beside_compute, mode, True)) < 0.01 * 2 * SENT
    assert sum(ranks(2).run(arrived_beside_compute, "off", False)) < 0.01 * 2 * SENT

"""The runtime of a device with streams: collectives and copies of its own beside its compute.

    runtime = device_runtime(torch.device("neuron"), torch.neuron, transport_of, tp, dp, kv_heads)

Each lane has a stream and process groups of its own: one communicator may not be used by two
streams at once. The main lane is the stream that computes. A call that the flight recorders have
as done was issued: where a device hangs, the host's stack says what it waits for.
"""

from collections.abc import Callable
from typing import Any

import torch

from ndtrain.core.spans import SpanRecorder
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.device_streams import DeviceStream
from ndtrain.runtime.first_runs import FirstRuns
from ndtrain.runtime.gloo import GlooTransport
from ndtrain.runtime.mesh import LANES, Mesh
from ndtrain.runtime.runtime import Runtime, inline, num_kv_replicas
from ndtrain.runtime.streams import BackgroundStream, Streams
from ndtrain.runtime.transport import Transport


def device_runtime(
    device: torch.device,
    module: Any,
    transport_of: Callable[[str], Transport],
    tp: int,
    dp: int,
    num_kv_heads: int,
    about: str = "",
    first_runs: FirstRuns | None = None,
) -> Runtime:
    """Collective over the world; a single rank needs no process group.

    module: the device's, like torch.cuda. transport_of: a lane's transport, of `mesh.LANES`.
    first_runs: says what is compiled.
    """
    spans = SpanRecorder()
    spans.enabled = False  # the host's times while it issues are nobody's
    lanes = {lane: Collectives(transport_of(lane), spans) for lane in LANES}
    main = lanes["main"]
    no_groups = Collectives(GlooTransport("host"), spans)
    streams: Streams = {
        **{lane: DeviceStream(lanes[lane], module) for lane in LANES[1:]},
        "dma": DeviceStream(no_groups, module, copies_host_memory=True),
        "host": BackgroundStream("host", no_groups),
    }
    replicas = num_kv_replicas(tp, num_kv_heads)
    mesh = Mesh.create(tp, dp, replicas) if tp * dp > 1 else Mesh.place(0, 1, 1)
    return Runtime(
        device,
        mesh,
        main,
        streams,
        inline(main),
        spans,
        {lane: own.flight for lane, own in lanes.items()} if tp * dp > 1 else {},
        has_permute=False,
        about=about,
        first_runs=first_runs,
    )

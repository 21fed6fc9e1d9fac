"""What the parallel step is handed: a device, a mesh, collectives, streams and a span recorder.

runtime = start_cpu(tp=2, dp=1, num_kv_heads=8)      # a rank; with more than one rank, gloo's
                                                     # default process group must exist
runtime = still(0, tp=8, dp=4, num_kv_heads=8, device="meta")   # nothing moves
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from ndtrain.core.spans import SpanRecorder
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.compilation import Compiled
from ndtrain.runtime.first_runs import FirstRuns, PartRun
from ndtrain.runtime.flight import FlightRecorder
from ndtrain.runtime.give_way import let_transfers_give_way
from ndtrain.runtime.gloo import GlooTransport
from ndtrain.runtime.heartbeat import Note
from ndtrain.runtime.mesh import LANES, Axis, Mesh
from ndtrain.runtime.place import Place
from ndtrain.runtime.still import StillTransport
from ndtrain.runtime.streams import BackgroundStream, InlineStream, Stream, Streams
from ndtrain.runtime.traced import Trace


@dataclass(frozen=True)
class Runtime:
    device: torch.device
    mesh: Mesh
    collectives: Collectives  # of the main thread: they block
    streams: Streams  # in the background: LANES but main, dma; `host` has work of the host alone
    serial_streams: Streams  # the same operations, one at a time, in the main thread
    spans: SpanRecorder
    flights: Mapping[str, FlightRecorder] = field(default_factory=dict)  # by lane
    trace: Trace | None = None  # where nothing runs until the step's whole graph is known
    has_permute: bool = True  # whether ranks can send to their neighbours, as a ring does
    about: str = ""  # what a person should know of the device
    places: Mapping[str, Place] = field(default_factory=dict)  # by axis; those that are data
    first_runs: FirstRuns | None = None  # where operations are compiled as they come

    @property
    def has_times(self) -> bool:
        """Whether spans say when the device worked: only where the host itself computes."""
        return self.spans.enabled

    @property
    def sizes_may_vary(self) -> bool:
        """Whether ranks may send each other what only the data decide the size of."""
        return self.device.type == "cpu" and self.has_permute and self.trace is None

    def compiling(self, name: str, note: Note) -> AbstractContextManager[None]:
        """Around a part of a run, which `note` then hears of while its operations are compiled.

        What is traced says so itself, in `trace.run`.
        """
        return nullcontext() if self.first_runs is None else self.first_runs.part(name, note)

    @property
    def compiled(self) -> Sequence[Compiled | PartRun]:
        """What was compiled or loaded so far, in this order; of what is known."""
        source = self.trace or self.first_runs
        return () if source is None else source.compiled

    def place(self, axis: Axis) -> Place:
        """What compute indexes with where it depends on the own rank."""
        return self.places.get(axis.name) or Place(axis.rank, axis.size)

    def stream_of(self, stream: str, axis: Axis, serial: bool = False) -> Stream:
        """Where a schedule's communication over the axis goes; over one rank nothing moves."""
        if serial or axis.size == 1:
            return self.serial_streams[axis.lane(stream)]
        return self.streams[axis.lane(stream)]

    def compute(self, name: str) -> AbstractContextManager[None]:
        """A span on the compute track, or of a traced step a name for its instructions."""
        return self.trace.scope(name) if self.trace else self.spans.span(name, "compute")


def num_kv_replicas(tp: int, num_kv_heads: int) -> int:
    """Tensor ranks that share one key/value head once there are more ranks than heads."""
    return max(1, tp // num_kv_heads)


def start_cpu(tp: int, dp: int, num_kv_heads: int, first_runs: FirstRuns | None = None) -> Runtime:
    """Collective over the world; a single rank needs no process group.

    first_runs: says what is compiled, for a run with torch.compile.
    """
    spans = SpanRecorder()
    main = Collectives(GlooTransport("main"), spans)
    streams = inline(main)
    # Copies need no group: a single rank has its stream too.
    dma = BackgroundStream("dma", Collectives(GlooTransport("dma"), spans))
    copies = {"dma": dma, "host": dma}
    if tp * dp == 1:
        mesh = Mesh.place(0, 1, 1)
        own: Streams = {**streams, **copies}
        return Runtime(torch.device("cpu"), mesh, main, own, streams, spans, first_runs=first_runs)
    mesh = Mesh.create(tp, dp, num_kv_replicas(tp, num_kv_heads))
    let_transfers_give_way()
    lanes = {lane: Collectives(GlooTransport(lane), spans) for lane in LANES[1:]}
    background = {lane: BackgroundStream(lane, own) for lane, own in lanes.items()} | copies
    flights = {lane: own.flight for lane, own in {"main": main, **lanes}.items()}
    return Runtime(
        torch.device("cpu"), mesh, main, background, streams, spans, flights, first_runs=first_runs
    )


def still(rank: int, tp: int, dp: int, num_kv_heads: int, device: str) -> Runtime:
    """One rank's share of the work with the communication taken out."""
    spans = SpanRecorder()
    mesh = Mesh.place(rank, tp, dp, num_kv_replicas(tp, num_kv_heads))
    collectives = Collectives(StillTransport(), spans)
    streams = inline(collectives)
    return Runtime(torch.device(device), mesh, collectives, streams, streams, spans)


def inline(collectives: Collectives) -> Streams:
    """Streams that run what they are given at once."""
    stream = InlineStream(collectives)
    return dict.fromkeys((*LANES[1:], "dma", "host"), stream)

"""What the parallel step is handed: a device, a mesh, collectives and a recorder of spans.

runtime = start_gloo(tp=2, dp=1)                 # a rank; the process group must exist
runtime = still(rank=0, tp=8, dp=4, device="meta")   # one rank's share, nothing moves
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from ndtrain.core.spans import SpanRecorder
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.gloo import GlooTransport
from ndtrain.runtime.mesh import Mesh
from ndtrain.runtime.still import StillTransport


@dataclass(frozen=True)
class Runtime:
    device: torch.device
    mesh: Mesh
    collectives: Collectives
    spans: SpanRecorder

    def compute(self, name: str) -> AbstractContextManager[None]:
        """A span on the compute track."""
        return self.spans.span(name, "compute")


def num_kv_replicas(tp: int, num_kv_heads: int) -> int:
    """Tensor ranks that share one key/value head once there are more ranks than heads."""
    return max(1, tp // num_kv_heads)


def start_cpu(tp: int, dp: int, num_kv_heads: int) -> Runtime:
    """Collective over the world; a single rank needs no process group."""
    spans = SpanRecorder()
    replicas = num_kv_replicas(tp, num_kv_heads)
    alone = tp * dp == 1
    mesh = Mesh.place(0, 1, 1) if alone else Mesh.create(tp, dp, replicas)
    return Runtime(torch.device("cpu"), mesh, Collectives(GlooTransport(), spans), spans)


def still(rank: int, tp: int, dp: int, num_kv_heads: int, device: str) -> Runtime:
    """One rank's share of the work with the communication taken out."""
    spans = SpanRecorder()
    mesh = Mesh.place(rank, tp, dp, num_kv_replicas(tp, num_kv_heads))
    return Runtime(torch.device(device), mesh, Collectives(StillTransport(), spans), spans)

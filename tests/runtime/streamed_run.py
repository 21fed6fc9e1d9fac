"""Training on the runtime of a device with streams, whose device is the stand-in."""

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from ndtrain.config.schema import Optim
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.modes import Modes
from ndtrain.parallel import offload
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.compile import compile_local_modules
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.offload import offload_activations
from ndtrain.parallel.recompute import recompute
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.runtime.device_runtime import device_runtime
from ndtrain.runtime.device_streams import DevicePending, DeviceStream
from ndtrain.runtime.device_transport import DeviceTransport
from ndtrain.runtime.runtime import Runtime, start_cpu
from ndtrain.runtime.streams import Pending, Work
from tests.parallel.small import SHAPE, loss_of
from tests.runtime.stand_in_neuron import StandIn, Watch

STEPS = 3


class Case(NamedTuple):
    tp: int
    dp: int
    mode: Mode = "chunk"
    dtype: torch.dtype = torch.float32
    serial: bool = False
    offloads: bool = False
    recompute: str = "none"
    attention: str = "sdpa"
    compiles: bool = False


class Outcome(NamedTuple):
    losses: list[float]
    parameters: dict[str, Tensor]
    snapshots: list[Tensor]
    races: list[str]
    hidden: Counter[str]  # collectives with a product beside them, by kind


class Forgetful(DeviceStream):
    """A mutant: keeps nothing of what an operation reads."""

    def submit(self, name: str, work: Work) -> DevicePending:
        pending = super().submit(name, work)
        pending.use.work = None
        return pending


def streamed(device: StandIn, tp: int, dp: int) -> Runtime:
    place = torch.device("cpu")
    return device_runtime(place, device, DeviceTransport, tp, dp, SHAPE.num_kv_heads)


def run(rank: int, case: Case, on_device: bool, broken: tuple[str, ...] = ()) -> Outcome:
    """A few steps with a snapshot of the weights behind the second.

    broken: what a mutant leaves out, a method of `StandIn` or `references`.
    """
    if not on_device:
        return _train(start_cpu(case.tp, case.dp, SHAPE.num_kv_heads), case)
    device = StandIn(broken)
    runtime = streamed(device, case.tp, case.dp)
    if "references" in broken:
        for stream in runtime.streams.values():
            if isinstance(stream, DeviceStream):
                stream.__class__ = Forgetful
    with Watch(device) as watch:
        outcome = _train(runtime, case)
    seen = [one for one in watch.operations if one.name.startswith("c10d")]
    assert len(seen) == sum(flight.sequence for flight in runtime.flights.values())
    hidden = Counter(one.name.split(".")[1] for one in watch.hidden())
    return outcome._replace(races=sorted(set(watch.races)), hidden=hidden)


def _train(runtime: Runtime, case: Case) -> Outcome:
    with torch.device("meta"):
        model = Qwen3(SHAPE, case.attention)
    shards = parallelize(model, runtime, Modes.all(case.mode, case.serial))
    optimizer = ShardedAdamW(
        model,
        shards,
        RandomWeights(SHAPE, seed=3),
        runtime,
        Optim(lr=1e-2),
        case.dtype,
        bucket_bytes=20_000,
        in_background=case.mode != "off",
    )
    if case.compiles:
        compile_local_modules(model, "neuron")
    recompute(model, case.recompute)  # type: ignore[arg-type]
    if case.offloads:
        offload.SMALLEST_BYTES = 512
        offload_activations(model, runtime)
    outcome = Outcome([], {}, [], [], Counter())
    snapshots = []
    for step in range(STEPS):
        outcome.losses.append(loss_of(model, runtime, step, 2, optimizer))
        optimizer.step(1e-2)
        if step != 1:  # the weights of the first step are gathered behind the next forward
            continue
        optimizer.traffic.finish()
        pending = [_snapshot(runtime, bucket.values) for bucket in optimizer.buckets]
        optimizer.hold(pending)
        snapshots += pending
    for one in snapshots:
        one.wait_until_ended()
        outcome.snapshots.append(one.wait())
    optimizer.traffic.finish()
    offload.SMALLEST_BYTES = 16 * 1024
    for name, value in model.named_parameters():
        outcome.parameters[name] = value.detach().clone()
    return outcome


def _snapshot(runtime: Runtime, values: Tensor) -> Pending:
    host = torch.empty(values.shape, dtype=values.dtype)
    return runtime.streams["dma"].submit("snapshot", lambda c: c.copy(values, "snapshot", host))

"""`ndtrain bench machine`: what this machine and link allow to any implementation.

    measurement = measure_plain(workload, dp=1, num_rounds=10, megabits=1000, bucket_bytes=None)

Interleaved rounds of a rank's share of the compute, of the bytes that a step sends, axis by axis,
of both with compute waiting for every transfer, and of both at once, neither waiting for the other;
all in plain PyTorch (`plain_compute.py`, `plain_exchange.py`). Of two axes each also goes beside
compute that waits for the other one. `bench overlap` has the same contestants beside ours.
"""

from dataclasses import dataclass

import torch.distributed as dist

from ndtrain.bench import launch
from ndtrain.bench.contestant import Contestant
from ndtrain.bench.plain_compute import PlainStep, PlainUpdate
from ndtrain.bench.plain_exchange import PlainExchange, Together
from ndtrain.bench.rounds import Rounds, run_rounds
from ndtrain.bench.transfers import AxisName, Layout
from ndtrain.bench.workload import Workload
from ndtrain.runtime.give_way import let_transfers_give_way
from ndtrain.train.place import threads_per_rank


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineMeasurement:
    workload: Workload  # num_ranks: of the tensor axis; batch_size: of a replica
    dp: int
    megabits: int | None  # of each rank's sending side; None: the link as it is
    bucket_bytes: int | None  # None: forward and backward alone
    num_threads: int
    rounds: Rounds


def plain_contestants(layout: Layout, bucket_bytes: int | None) -> list[Contestant]:
    """bucket_bytes: of fp32 gradients that travel together; None: no optimizer, no data axis."""
    if bucket_bytes is not None and layout.tp > 1:
        return _of_two_axes(PlainUpdate(layout), layout, bucket_bytes)
    compute: PlainStep
    if bucket_bytes is None:
        compute, exchange = PlainStep(layout), PlainExchange(layout, ("tensor",))
        blocking = Together("blocking", compute, in_turn=exchange)
    else:
        compute = PlainUpdate(layout)
        exchange = PlainExchange(layout, ("data",), bucket_bytes, "exchange data")
        blocking = Together("blocking", compute, behind=exchange)
    return [compute, exchange, blocking, Together("beside", compute, beside=exchange)]


def _of_two_axes(compute: PlainStep, layout: Layout, bucket_bytes: int) -> list[Contestant]:
    def exchange(*axes: AxisName, group: dist.ProcessGroup | None = None) -> PlainExchange:
        name = f"exchange {' + '.join(axes)}"
        return PlainExchange(layout, axes, bucket_bytes, name, group)

    tensor, data, both = exchange("tensor"), exchange("data"), exchange("tensor", "data")
    group = dist.new_group()  # of a second thread, where the first one moves the other axis
    return [
        compute,
        tensor,
        data,
        both,
        Together("blocking", compute, in_turn=tensor, behind=data),
        Together("beside tensor", compute, behind=data, beside=exchange("tensor", group=group)),
        Together("beside data", compute, in_turn=tensor, beside=exchange("data", group=group)),
        Together("beside", compute, beside=both),
    ]


def axes_of(tp: int) -> tuple[AxisName, ...]:
    """Over which a whole step moves anything."""
    return ("data",) if tp == 1 else ("tensor", "data")


def measure_plain(
    workload: Workload, dp: int, num_rounds: int, megabits: int | None, bucket_bytes: int | None
) -> MachineMeasurement | None:
    """None on ranks of a torchrun job that do not report. Raises UserError as `measure_overlap`."""
    workload.check()
    arguments = (workload, dp, num_rounds, bucket_bytes)
    rounds = launch.first_result(_rounds, arguments, workload.num_ranks * dp, megabits)
    if rounds is None:
        return None
    return MachineMeasurement(
        workload=workload,
        dp=dp,
        megabits=megabits,
        bucket_bytes=bucket_bytes,
        num_threads=threads_per_rank(launch.num_local_ranks(workload.num_ranks * dp)),
        rounds=rounds,
    )


def _rounds(workload: Workload, dp: int, num_rounds: int, bucket_bytes: int | None) -> Rounds:
    dist.barrier()  # connects the ranks: only now there are threads that move bytes
    let_transfers_give_way()
    layout = Layout(workload.num_ranks, dp, dist.get_rank())
    return run_rounds(plain_contestants(layout, bucket_bytes), workload, num_rounds)

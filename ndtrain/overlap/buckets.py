"""The travel of ZeRO's buckets over the data axis as a schedule of one optimizer step.

    schedule = bucket_schedule(order=[0, 1, 2, 3], in_background=True)

A bucket's gradients are reduced while backward goes on to the next bucket, and its new weights are
gathered while the next bucket is updated and the next forward begins. The update goes the other
way, because the last bucket holds the first layers. What computes lies in autograd and the
optimizer: `unfold.py` runs the communications beside it.

    gradients_0  gradients_1  ...  norm  update_1  update_0  forward_1  forward_0      compute
         scatter_0    scatter_1                                                        scatter
                                              gather_1  gather_0                       gather
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from ndtrain.overlap.operations import Operation
from ndtrain.overlap.schedule import Schedule, ScheduleBuilder


@dataclass(frozen=True)
class Elsewhere:
    """Compute that a schedule orders and does not do itself."""

    what: str

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        raise AssertionError(f"{self.what} is computed elsewhere")


@dataclass(frozen=True)
class BucketWork:
    """What is computed for each bucket; norm: once, of all gradients."""

    gradients: Callable[[int], Operation]
    norm: Operation
    update: Callable[[int], Operation]
    forward: Callable[[int], Operation]


ELSEWHERE = BucketWork(
    gradients=lambda bucket: Elsewhere("backward"),
    norm=Elsewhere("the norm of the gradient"),
    update=lambda bucket: Elsewhere("the update"),
    forward=lambda bucket: Elsewhere("forward"),
)


def bucket_schedule(
    order: Sequence[int],
    in_background: bool,
    work: BucketWork = ELSEWHERE,
    needed_last: Collection[int] = (),
) -> Schedule:
    """order: of the buckets, in which their gradients are complete. Input: the batch.

    needed_last: buckets whose weights the next forward can do without the longest. Not in the
    background, everything waits for everything: the blocking form.
    """
    graph, blocks = ScheduleBuilder("buckets", ("batch",)), not in_background
    gradients = tuple(f"gradients_{bucket}" for bucket in order)
    scatters: list[str] = []
    for bucket in order:
        graph.compute(f"gradients_{bucket}", work.gradients(bucket), ("batch",))
        if in_background:
            scatters.append(graph.reduce_scatter(f"scatter_{bucket}", f"gradients_{bucket}"))
    if blocks:
        for bucket in order:
            name, value = f"scatter_{bucket}", f"gradients_{bucket}"
            scatters.append(graph.reduce_scatter(name, value, gradients))
    norm = graph.compute("norm", work.norm, scatters)
    updates = update_order(len(order), needed_last)
    updated = tuple(f"update_{bucket}" for bucket in updates)
    gathers = tuple(f"gather_{bucket}" for bucket in updates)
    for bucket, update, gather in zip(updates, updated, gathers, strict=True):
        graph.compute(update, work.update(bucket), (f"scatter_{bucket}", norm))
        if in_background:
            graph.all_gather(gather, update)
    if blocks:
        for update, gather in zip(updated, gathers, strict=True):
            graph.all_gather(gather, update, updated)
    after = gathers if blocks else ()
    used = [
        graph.compute(f"forward_{bucket}", work.forward(bucket), (gather,), after)
        for bucket, gather in zip(updates, gathers, strict=True)
    ]
    return graph.finish(used)


def update_order(num_buckets: int, needed_last: Collection[int] = ()) -> list[int]:
    """The last bucket holds the first layers, which the next forward needs first."""
    others = [bucket for bucket in reversed(range(num_buckets)) if bucket not in needed_last]
    return [*others, *needed_last]

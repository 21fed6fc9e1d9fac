"""What a step has besides its layers, on the virtual clock: the head, and ZeRO's buckets.

    head = head_part(sizes, modes, dtype, figures)
    layout = BucketLayout.of(shape, tp=8, dp=4, bucket_bytes=16 * 10**6, in_background=True)
    buckets = bucket_part(layout, num_layers, dtype, figures, layer_timeline(...))

The head runs as its schedule on meta tensors. A bucket's compute is autograd's: it is given its
share, by elements, of what the layers take; update and norm cost the memory that they move.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.models.qwen3.shape import Shape
from ndtrain.ops.norm import wide
from ndtrain.overlap.buckets import bucket_schedule
from ndtrain.overlap.candidates import Sizes, candidate, meta_inputs
from ndtrain.overlap.modes import Modes, Pass
from ndtrain.overlap.node_cost import Figures, NodeCost, Phase
from ndtrain.overlap.schedule import Schedule
from ndtrain.overlap.timeline import simulate, simulate_costs
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.data_parallel import completion_order
from ndtrain.parallel.layer_timeline import Part, panel
from ndtrain.parallel.zero import bucket_names
from ndtrain.runtime.runtime import still

# AdamW reads weight, gradient and two moments, and writes weight and moments.
UPDATE_TOUCHES = 7


@dataclass(frozen=True)
class BucketLayout:
    """The buckets of a run: elements of each on one rank, and how they travel."""

    dp: int
    in_background: bool
    num_elements: tuple[int, ...]
    order: tuple[int, ...]  # in which backward completes them
    serial: bool = False  # one node at a time

    @classmethod
    def of(
        cls,
        shape: Shape,
        tp: int,
        dp: int,
        bucket_bytes: int,
        in_background: bool,
        serial: bool = False,
    ) -> "BucketLayout":
        """bucket_bytes: of fp32 gradients. The model is made on meta tensors."""
        with torch.device("meta"):
            model = Qwen3(shape)
        shards = parallelize(model, still(0, tp, dp, shape.num_kv_heads, "meta"))
        members = [names for _, names in bucket_names(model, bucket_bytes // 4)]
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        elements = tuple(sum(sizes[name] for name in names) for names in members)
        _, order = completion_order(members, shards)
        return cls(dp, in_background, elements, tuple(order), serial)

    @property
    def schedule(self) -> Schedule:
        return bucket_schedule(self.order, self.in_background)


def head_part(sizes: Sizes, modes: Modes, dtype: torch.dtype, figures: Figures) -> Part:
    """Forward and backward of head and loss, which are one."""
    mode = modes.of("head", "forward")
    schedule = candidate("head", "forward", mode, sizes, dtype)
    inputs = meta_inputs("head", "forward", sizes, dtype)
    timeline = simulate(schedule, inputs, sizes.num_ranks, figures, modes.is_serial("head"))
    return Part("head", mode, timeline)


def bucket_part(
    layout: BucketLayout,
    num_layers: int,
    dtype: torch.dtype,
    figures: Figures,
    layer: Mapping[Pass, Sequence[Part]],
) -> Part:
    """Backward, update and the next forward of the whole model, with its buckets beside them."""
    seconds = {
        when: num_layers * panel(when, list(parts)).timeline.makespan_s
        for when, parts in layer.items()
    }
    costs = _bucket_costs(layout, dtype, figures, seconds)
    timeline = simulate_costs(layout.schedule, costs, figures, layout.serial)
    return Part("buckets", "bulk" if layout.in_background else "off", timeline)


def _bucket_costs(
    layout: BucketLayout, dtype: torch.dtype, figures: Figures, seconds: Mapping[Pass, float]
) -> dict[str, NodeCost]:
    total = sum(layout.num_elements)
    width, memory = wide(dtype).itemsize, figures.memory_bytes_per_s
    costs = {"norm": _compute(total // layout.dp * width / memory, figures)}
    for bucket, elements in enumerate(layout.num_elements):
        own = -(-elements // layout.dp)
        share = elements / total
        update_bytes = UPDATE_TOUCHES * own * width + elements * width  # gradients are zeroed too
        costs |= {
            f"gradients_{bucket}": _compute(share * seconds["backward"], figures),
            f"update_{bucket}": _compute(update_bytes / memory, figures),
            f"forward_{bucket}": _compute(share * seconds["forward"], figures),
            f"scatter_{bucket}": _transfer(
                (layout.dp - 1) * own * width, (elements + own) * width, figures
            ),
            f"gather_{bucket}": _transfer((layout.dp - 1) * own * dtype.itemsize, 0, figures),
        }
    return costs


def _compute(seconds: float, figures: Figures) -> NodeCost:
    return NodeCost((Phase("compute", seconds + figures.node_overhead_s),))


def _transfer(num_bytes: int, added_bytes: int, figures: Figures) -> NodeCost:
    """added_bytes: that the sum of what has come moves in memory."""
    phases = (
        Phase("nothing", figures.node_overhead_s + figures.link_latency_s),
        Phase("link", num_bytes * figures.link_s_per_byte),
        Phase("nothing", added_bytes / figures.memory_bytes_per_s),
    )
    return NodeCost(phases, num_bytes)

"""Mean loss over the held-out rows, each counted once, the same on every layout."""

from collections.abc import Callable

import torch

from ndtrain.data.loader import HeldOutRows, rank_rows
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.step import batch_loss

NAME = "the evaluation"


@torch.no_grad()
def evaluate(
    model: Qwen3,
    held_out: HeldOutRows,
    micro_batch_size: int,
    runtime: Runtime,
    note: Callable[[str], None] = lambda text: None,
    begin: Callable[[], None] = lambda: None,
) -> float:
    """Nats per counted token. Collective over the mesh.

    note: is told what is compiled. begin: comes before each batch, for a device that traces.
    """
    data = runtime.mesh.data
    unit = data.size * micro_batch_size
    # Equal shapes on all ranks: rows beyond the held-out ones are empty and count nothing.
    padded = -(-held_out.num_rows // unit) * unit
    num_targets = held_out.num_targets(slice(0, held_out.num_rows))
    loss = torch.zeros(1, dtype=torch.float64)
    with runtime.spans.span("evaluate", "host"):
        for rows in rank_rows(padded, data.size, data.rank, micro_batch_size):
            begin()
            with runtime.compiling(NAME, note):
                part = batch_loss(model, held_out.batch(rows), num_targets, runtime)
            if runtime.trace is not None:
                runtime.trace.run(NAME, note)
            loss += part.cpu().double()
    return runtime.collectives.all_reduce(loss, data, "held_out_loss").item()

"""The schedules between which the gate chooses, and one rank's inputs of each as meta tensors.

schedule = candidate("qkv", "backward", "ring", sizes, dtype)
tensors = meta_inputs("qkv", "backward", sizes, dtype)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ndtrain.overlap.collective_matmul import (
    NUM_CHUNKS,
    Mode,
    column_backward,
    gather_matmul,
    matmul_scatter,
    row_backward,
)
from ndtrain.overlap.early import Between, joined
from ndtrain.overlap.head import HeadTokens, head_schedule
from ndtrain.overlap.modes import BEHIND, Pass
from ndtrain.overlap.schedule import Schedule
from ndtrain.runtime.place import Place, TracedPlace

Builder = Callable[[str, Place, Mode], Schedule]
COLUMN: dict[Pass, Builder] = {"forward": gather_matmul, "backward": column_backward}
ROW: dict[Pass, Builder] = {"forward": matmul_scatter, "backward": row_backward}
LINEARS: dict[str, dict[Pass, Builder]] = {"qkv": COLUMN, "o": ROW, "gate_up": COLUMN, "down": ROW}
# The head makes its gradients in forward: nothing is left for a backward of its own.
CANDIDATES: tuple[tuple[str, Pass], ...] = (
    *((operation, when) for operation, builders in LINEARS.items() for when in builders),
    ("head", "forward"),
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the operations of one rank work on."""

    num_ranks: int  # of the tensor axis
    sequence_length: int
    batch_size: int
    hidden: int
    widths: Mapping[str, int]  # operation -> this rank's columns on its sharded side

    @property
    def num_uneven(self) -> int:
        """Rows of a shard that equal sub-chunks would leave over."""
        return self.sequence_length // self.num_ranks % NUM_CHUNKS


def candidate(
    operation: str,
    when: Pass,
    mode: Mode,
    sizes: Sizes,
    dtype: torch.dtype,
    places_are_data: bool = False,
) -> Schedule:
    """As rank 0 of the tensor axis holds it.

    places_are_data: as in a traced graph, where a ring copies what it turns.
    """
    size = sizes.num_ranks
    place = TracedPlace.on(torch.device("meta"), 0, size) if places_are_data else Place(0, size)
    if operation != "head":
        return LINEARS[operation][when](operation, place, mode)
    x, weight, *_ = meta_inputs(operation, when, sizes, dtype)
    tokens = HeadTokens.of(x, weight, sizes.num_ranks, mode)
    return head_schedule(operation, tokens, place, want_gradients=True)


def pair(
    column: str, modes: tuple[Mode, Mode], sizes: Sizes, dtype: torch.dtype
) -> tuple[Schedule, list[Tensor]]:
    """The backward of a column-parallel operation and of the row behind it, and their inputs.

    modes: of the row, and of the column, which has a head start in the row's (`early.py`).
    """
    row, (row_mode, column_mode) = BEHIND[column], modes
    first = candidate(row, "backward", row_mode, sizes, dtype)
    second = candidate(column, "backward", column_mode, sizes, dtype)
    inputs = [*meta_inputs(row, "backward", sizes, dtype)]
    inputs += meta_inputs(column, "backward", sizes, dtype)[1:]
    return joined(first, second, Between(sizes.widths[column])), inputs


def meta_inputs(operation: str, when: Pass, sizes: Sizes, dtype: torch.dtype) -> list[Tensor]:
    """The schedule's inputs as meta tensors of one rank's shapes."""
    width, hidden, batch = sizes.widths[operation], sizes.hidden, sizes.batch_size

    def tensor(*dims: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(dims, dtype=dtype, device="meta")

    narrow = tensor(sizes.sequence_length // sizes.num_ranks, batch, hidden)
    if operation == "head":
        targets = tensor(sizes.sequence_length, batch, dtype=torch.int64)
        weights = tensor(sizes.sequence_length, batch, dtype=torch.float32)
        return [narrow, tensor(width, hidden), targets, weights]
    wide = tensor(sizes.sequence_length, batch, width)
    is_row = LINEARS[operation] is ROW
    weight = tensor(hidden, width) if is_row else tensor(width, hidden)
    if when == "forward":
        return [wide if is_row else narrow, weight]
    return [narrow, wide, weight] if is_row else [wide, narrow, weight]

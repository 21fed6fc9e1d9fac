"""The cost gate: which form of each operation is predicted to be fastest, and what was decided.

    decision = decide(settings, sizes, figures, dtype)
    decision.modes                    # for `parallelize`
    decision.lines()                  # one line an operation, for people

Each candidate's schedule runs on the virtual clock (`timeline.py`) with the figures of the machine;
the shortest wins, and `off` unless another is shorter by MARGIN: a tie is not worth its buffers.
One rank decides for all, because all must issue the same collectives.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ndtrain.config.schema import Overlap
from ndtrain.core.errors import UserError
from ndtrain.overlap.collective_matmul import (
    MODES,
    NUM_CHUNKS,
    Mode,
    column_backward,
    gather_matmul,
    matmul_scatter,
    row_backward,
)
from ndtrain.overlap.modes import OPERATIONS, Modes, Pass
from ndtrain.overlap.node_cost import Figures
from ndtrain.overlap.schedule import Schedule
from ndtrain.overlap.timeline import simulate

MARGIN = 0.02  # of the operation's time

Builder = Callable[[str, int, int, Mode], Schedule]
COLUMN: dict[Pass, Builder] = {"forward": gather_matmul, "backward": column_backward}
ROW: dict[Pass, Builder] = {"forward": matmul_scatter, "backward": row_backward}
BUILDERS: dict[str, dict[Pass, Builder]] = {
    "qkv": COLUMN,
    "o": ROW,
    "gate_up": COLUMN,
    "down": ROW,
    # The head makes its gradients in forward: gather, products and reduce-scatter are those of a
    # column-parallel backward, and nothing is left for its own backward.
    "head": {"forward": column_backward},
}


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


@dataclass(frozen=True)
class Choice:
    """One operation's form. Milliseconds are predicted; None where nothing was weighed."""

    operation: str
    when: Pass
    mode: Mode
    predicted_ms: float | None = None
    blocking_ms: float | None = None

    def line(self) -> str:
        text = f"overlap: {self.operation} {self.when}: {self.mode}"
        if self.predicted_ms is None or self.blocking_ms is None:
            return text
        return (
            f"{text} (predicted {self.predicted_ms:.2f} ms, blocking {self.blocking_ms:.2f} ms:"
            f" {100 * (1 - self.predicted_ms / self.blocking_ms):.0f} % less)"
        )


@dataclass(frozen=True)
class Decision:
    choices: tuple[Choice, ...]
    serial: bool

    @property
    def modes(self) -> Modes:
        by_operation = {(c.operation, c.when): c.mode for c in self.choices}
        return Modes(by_operation, self.serial)

    @property
    def overlaps(self) -> bool:
        """Whether anything is meant to run beside anything else."""
        return not self.serial and any(choice.mode != "off" for choice in self.choices)

    def lines(self) -> list[str]:
        return [choice.line() for choice in self.choices]

    def to_json(self) -> dict[str, Any]:
        return {"choices": [asdict(choice) for choice in self.choices], "serial": self.serial}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Decision":
        return cls(tuple(Choice(**choice) for choice in value["choices"]), value["serial"])


def needs_figures(settings: Overlap) -> bool:
    """Whether anything is left to weigh once the settings are followed."""
    return settings.mode in ("auto", "serial")


def decide(
    settings: Overlap, sizes: Sizes, figures: Figures | None, dtype: torch.dtype
) -> Decision:
    """figures: None if nothing has to be weighed."""
    choices = []
    for operation in OPERATIONS:
        for when in BUILDERS[operation]:
            fixed = getattr(settings, operation) or _fixed(settings)
            if sizes.num_ranks == 1:
                choice = Choice(operation, when, "off")
            elif fixed is not None:
                _refuse_uneven(operation, fixed, sizes)
                choice = Choice(operation, when, _possible(operation, fixed))
            else:
                assert figures is not None
                inputs = _inputs(operation, when, sizes, dtype)
                choice = _weigh(operation, when, inputs, sizes, figures)
            choices.append(choice)
    return Decision(tuple(choices), settings.mode == "serial")


def _refuse_uneven(operation: str, mode: Mode, sizes: Sizes) -> None:
    if _possible(operation, mode) == "chunk" and sizes.num_uneven:
        unit = sizes.num_ranks * NUM_CHUNKS
        raise UserError(
            f"overlap of {operation} in sub-chunks needs data.sequence_length to be a multiple of"
            f" {unit}, and it is {sizes.sequence_length}",
            "overlap.mode",
            "use another sequence_length, or overlap.head=off and a mode other than chunk",
        )


def _fixed(settings: Overlap) -> Mode | None:
    if settings.mode == "auto" or settings.mode == "serial":
        return None
    return settings.mode


def _possible(operation: str, mode: Mode) -> Mode:
    """The head has no ring: all ranks need the logits of the same tokens at a time."""
    if operation != "head":
        return mode
    return "chunk" if mode in ("chunk", "ring") else "off"


def _weigh(
    operation: str, when: Pass, inputs: list[Tensor], sizes: Sizes, figures: Figures
) -> Choice:
    modes: tuple[Mode, ...] = ("off", "chunk") if operation == "head" else MODES
    size, predicted = sizes.num_ranks, {}
    for mode in modes:
        if mode == "chunk" and sizes.num_uneven:
            continue
        schedule = BUILDERS[operation][when](operation, size, 0, mode)
        predicted[mode] = 1e3 * simulate(schedule, inputs, size, figures).makespan_s
    blocking = predicted["off"]
    best = min(predicted, key=lambda mode: predicted[mode])
    if predicted[best] > (1 - MARGIN) * blocking:
        best = "off"
    return Choice(operation, when, best, predicted[best], blocking)


def _inputs(operation: str, when: Pass, sizes: Sizes, dtype: torch.dtype) -> list[Tensor]:
    """The schedule's inputs as meta tensors of one rank's shapes."""
    width, hidden = sizes.widths[operation], sizes.hidden
    is_row = BUILDERS[operation] is ROW

    def tensor(*dims: int) -> Tensor:
        return torch.empty(dims, dtype=dtype, device="meta")

    wide = tensor(sizes.sequence_length, sizes.batch_size, width)
    narrow = tensor(sizes.sequence_length // sizes.num_ranks, sizes.batch_size, hidden)
    weight = tensor(hidden, width) if is_row else tensor(width, hidden)
    if when == "forward" and operation != "head":
        return [wide if is_row else narrow, weight]
    return [narrow, wide, weight] if is_row else [wide, narrow, weight]

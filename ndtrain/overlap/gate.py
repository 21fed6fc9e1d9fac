"""The cost gate: which form of each operation is predicted to be fastest, and what was decided.

    decision = decide(settings, sizes, figures, dtype)
    decision.modes                    # for `parallelize`
    decision.lines()                  # one line an operation, for people

Each candidate's schedule runs on the virtual clock (`timeline.py`) with the figures of the machine;
the shortest wins, and `off` unless another is shorter by MARGIN: a tie is not worth its buffers.
What holds more than `overlap.max_extra_megabytes` above `off` is not weighed. One rank decides for
all, because all must issue the same collectives.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ndtrain.config.schema import Overlap
from ndtrain.core.errors import UserError
from ndtrain.overlap.candidates import CANDIDATES, Sizes, candidate, meta_inputs, pair
from ndtrain.overlap.collective_matmul import DIVIDES, HALVES, MODES, NUM_CHUNKS, Mode
from ndtrain.overlap.memory import extra_bytes
from ndtrain.overlap.modes import BEHIND, OPERATIONS, Modes, Pass
from ndtrain.overlap.node_cost import Figures
from ndtrain.overlap.schedule import Schedule
from ndtrain.overlap.timeline import simulate

MARGIN = 0.02  # of the operation's time
WEIGHED = ("auto", "serial")  # of the configuration: no form, the fastest is looked for


@dataclass(frozen=True)
class Choice:
    """One operation's form. Milliseconds are predicted; None where nothing was weighed.

    extra_bytes: held above the blocking form. too_large: forms that exceeded the limit of memory.
    serial: it runs one node at a time, and takes longer than predicted. early: it begins in the
    backward of the row-parallel product behind it (`early.py`); its predicted time does without.
    """

    operation: str
    when: Pass
    mode: Mode
    predicted_ms: float | None = None
    blocking_ms: float | None = None
    extra_bytes: int = 0
    too_large: tuple[Mode, ...] = ()
    serial: bool = False
    early: bool = False

    def line(self) -> str:
        how: str = self.mode
        if self.early:
            how += f", begun in {BEHIND[self.operation]}'s"
        if self.serial:
            how += ", one node at a time"
        return f"overlap: {self.operation} {self.when}: {how}{self._why()}{self._memory()}"

    def _why(self) -> str:
        if self.predicted_ms is None or self.blocking_ms is None:
            return ""
        return (
            f" (predicted {self.predicted_ms:.2f} ms, blocking {self.blocking_ms:.2f} ms:"
            f" {100 * (1 - self.predicted_ms / self.blocking_ms):.0f} % less)"
        )

    def _memory(self) -> str:
        text = f", {self.extra_bytes / 1e6:.1f} MB more" if self.extra_bytes else ""
        if self.too_large:
            text += f"; {', '.join(self.too_large)}: above overlap.max_extra_megabytes"
        return text


@dataclass(frozen=True)
class Decision:
    choices: tuple[Choice, ...]

    @property
    def modes(self) -> Modes:
        by_operation = {(c.operation, c.when): c.mode for c in self.choices}
        serial = frozenset(c.operation for c in self.choices if c.serial)
        return Modes(by_operation, serial, frozenset(c.operation for c in self.choices if c.early))

    @property
    def overlapped(self) -> set[str]:
        """Operations that are meant to run beside something."""
        return {c.operation for c in self.choices if c.mode != "off" and not c.serial}

    def lines(self) -> list[str]:
        return [choice.line() for choice in self.choices]

    def to_json(self) -> dict[str, Any]:
        return {"choices": [asdict(choice) for choice in self.choices]}

    @classmethod
    def blocking(cls) -> "Decision":
        """Nothing is overlapped."""
        return cls(tuple(Choice(operation, when, "off") for operation, when in CANDIDATES))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Decision":
        serial = value.get("serial", False)  # of all: before operations had it of their own
        choices = (
            Choice(**{"serial": serial, **choice, "too_large": tuple(choice.get("too_large", ()))})
            for choice in value["choices"]
        )
        return cls(tuple(choices))


def needs_figures(settings: Overlap) -> bool:
    """Whether anything is left to weigh once the settings are followed."""
    return any(_asked(settings, operation) in WEIGHED for operation in OPERATIONS)


def decide(
    settings: Overlap,
    sizes: Sizes,
    figures: Figures | None,
    dtype: torch.dtype,
    has_permute: bool = True,
    places_are_data: bool = False,
) -> Decision:
    """figures: None if nothing has to be weighed. has_permute: if not, no ring is weighed.

    places_are_data: as in `candidate`.
    """
    choices = []
    for operation, when in CANDIDATES:
        if sizes.num_ranks == 1:
            choices.append(Choice(operation, when, "off"))
            continue
        weighed = _Weighed(
            operation, when, sizes, dtype, _limit(settings), has_permute, places_are_data
        )
        asked = _asked(settings, operation)
        if asked in WEIGHED:
            assert figures is not None
            choice = weighed.fastest(figures)
        else:
            _refuse_uneven(operation, asked, sizes)
            choice = weighed.follow(_possible(operation, asked))
        choices.append(replace(choice, serial="serial" in (asked, settings.mode)))
    if sizes.num_ranks > 1 and not places_are_data:
        choices = _with_head_starts(choices, sizes, dtype, _limit(settings))
    return Decision(tuple(choices))


def _with_head_starts(
    choices: list[Choice], sizes: Sizes, dtype: torch.dtype, limit: float
) -> list[Choice]:
    """Every backward that can has one: it moves the same bytes, and holds them a little longer."""
    found = {(choice.operation, choice.when): choice for choice in choices}
    for column, row in BEHIND.items():
        first, second = found[row, "backward"], found[column, "backward"]
        if "off" in (first.mode, second.mode) or first.serial != second.serial:
            continue
        whole, inputs = pair(column, (first.mode, second.mode), sizes, dtype)
        blocking, _ = pair(column, ("off", "off"), sizes, dtype)
        extra = extra_bytes(whole, blocking, inputs, sizes.num_ranks)
        if extra <= limit:
            extra = max(extra, second.extra_bytes)
            found[column, "backward"] = replace(second, early=True, extra_bytes=extra)
    return list(found.values())


def _asked(settings: Overlap, operation: str) -> Any:
    """A form, or one of WEIGHED: the operation's own or else that of all."""
    return getattr(settings, operation) or settings.mode


def _limit(settings: Overlap) -> float:
    megabytes = settings.max_extra_megabytes
    return math.inf if megabytes is None else megabytes * 1e6


def _refuse_uneven(operation: str, mode: Mode, sizes: Sizes) -> None:
    if _possible(operation, mode) in DIVIDES and sizes.num_uneven:
        unit = sizes.num_ranks * NUM_CHUNKS
        raise UserError(
            f"overlap of {operation} as {_possible(operation, mode)} needs data.sequence_length to"
            f" be a multiple of {unit}, and it is {sizes.sequence_length}",
            "overlap.mode",
            f"use another sequence_length, or overlap.head=off and none of {', '.join(DIVIDES)}",
        )


def _possible(operation: str, mode: Mode) -> Mode:
    """The head has no ring: all ranks need the logits of the same tokens at a time."""
    if operation != "head":
        return mode
    return "chunk" if mode in ("chunk", *HALVES) else "off"


class _Weighed:
    """The forms of one operation and what each holds and takes."""

    def __init__(
        self,
        operation: str,
        when: Pass,
        sizes: Sizes,
        dtype: torch.dtype,
        limit: float,
        has_permute: bool,
        places_are_data: bool,
    ) -> None:
        """limit: bytes that a form may hold above the blocking one."""
        self._places_are_data = places_are_data
        self._operation, self._when, self._limit = operation, when, limit
        self._sizes, self._size, self._dtype = sizes, sizes.num_ranks, dtype
        self._inputs = meta_inputs(operation, when, sizes, dtype)
        modes: tuple[Mode, ...] = ("off", "chunk") if operation == "head" else MODES
        cannot: set[Mode] = set(DIVIDES) if sizes.num_uneven else set()
        cannot |= set() if has_permute else set(HALVES)
        self._modes = [mode for mode in modes if mode not in cannot]

    def follow(self, mode: Mode) -> Choice:
        """The form that was asked for. Raises UserError if it holds too much."""
        extra = self._extra_bytes(mode)
        if extra > self._limit:
            raise UserError(
                f"overlap of {self._operation} {self._when} as {mode} holds {extra / 1e6:.1f} MB"
                f" above the blocking form, and the limit is {self._limit / 1e6:g} MB",
                "overlap.max_extra_megabytes",
                f"raise the limit, or set overlap.{self._operation}=off",
            )
        return Choice(self._operation, self._when, mode, extra_bytes=extra)

    def fastest(self, figures: Figures) -> Choice:
        """The form that is predicted to be fastest of those that hold no more than the limit."""
        extra = {mode: self._extra_bytes(mode) for mode in self._modes}
        too_large = tuple(mode for mode in self._modes if extra[mode] > self._limit)
        predicted = {
            mode: 1e3 * simulate(self._schedule(mode), self._inputs, self._size, figures).makespan_s
            for mode in self._modes
            if mode not in too_large
        }
        blocking = predicted["off"]
        best = min(predicted, key=lambda mode: predicted[mode])
        if predicted[best] > (1 - MARGIN) * blocking:
            best = "off"
        return Choice(
            self._operation, self._when, best, predicted[best], blocking, extra[best], too_large
        )

    def _extra_bytes(self, mode: Mode) -> int:
        blocking = self._schedule("off")
        return extra_bytes(self._schedule(mode), blocking, self._inputs, self._size)

    def _schedule(self, mode: Mode) -> Schedule:
        return candidate(
            self._operation, self._when, mode, self._sizes, self._dtype, self._places_are_data
        )

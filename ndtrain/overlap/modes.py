"""Which form each operation of a run takes.

    modes = Modes.all("ring")
    modes.of("qkv", "forward")        # "ring"
    modes.is_serial("qkv")            # whether its plan runs one node at a time

The operations are the parallel linears and the output head; their names are the last part of the
module's name: qkv, o, gate_up, down, head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ndtrain.config.overlapping import OPERATIONS
from ndtrain.overlap.collective_matmul import Mode

Pass = Literal["forward", "backward"]
PASSES: tuple[Pass, ...] = ("forward", "backward")
# Column-parallel -> the row-parallel one behind it in the layer, whose backward comes before.
BEHIND = {"qkv": "o", "gate_up": "down"}


@dataclass(frozen=True)
class Modes:
    by_operation: Mapping[tuple[str, Pass], Mode] = field(default_factory=dict)
    serial: frozenset[str] = frozenset()  # operations
    early: frozenset[str] = frozenset()  # of BEHIND, whose backward has a head start (`early.py`)

    @classmethod
    def all(cls, mode: Mode, serial: bool = False) -> "Modes":
        by_operation = {(name, when): mode for name in OPERATIONS for when in PASSES}
        early = frozenset(BEHIND if mode != "off" else ())
        return cls(by_operation, frozenset(OPERATIONS if serial else ()), early)

    def of(self, operation: str, when: Pass) -> Mode:
        return self.by_operation[operation, when]

    def is_serial(self, operation: str) -> bool:
        return operation in self.serial

    def is_early(self, operation: str) -> bool:
        """Whether it takes a head start in backward, or gives one."""
        return any(operation in (column, BEHIND[column]) for column in self.early)


BLOCKING = Modes.all("off")

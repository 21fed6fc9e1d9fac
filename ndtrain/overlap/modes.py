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


@dataclass(frozen=True)
class Modes:
    by_operation: Mapping[tuple[str, Pass], Mode] = field(default_factory=dict)
    serial: frozenset[str] = frozenset()  # operations

    @classmethod
    def all(cls, mode: Mode, serial: bool = False) -> "Modes":
        by_operation = {(name, when): mode for name in OPERATIONS for when in PASSES}
        return cls(by_operation, frozenset(OPERATIONS if serial else ()))

    def of(self, operation: str, when: Pass) -> Mode:
        return self.by_operation[operation, when]

    def is_serial(self, operation: str) -> bool:
        return operation in self.serial


BLOCKING = Modes.all("off")

"""Reads the text of an HLO module: its entry computation as a graph of instructions.

    graph = HloGraph.read(text)
    graph.before("all-gather.5", "dot.16")       # whether the second depends on the first
    graph.labelled("layers.0.mlp.down.product")  # instructions recorded in that scope

The format is XLA's own printing (openxla.org/xla/operation_semantics): one instruction a line,
operands before their readers. Instructions inside called computations (a reduction's addition) are
part of the instruction that calls them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(?P<name>[\w.-]+) = (?P<rest>.*)$")
_OPCODE = re.compile(r"(?:^|[\s})\]])(?P<opcode>[a-z][a-z0-9-]*)\(")
_NAME = re.compile(r"%([\w.-]+)")
_SCOPES = re.compile(r'op_name="([^"]*)"')
_GROUP = re.compile(r"\{([\d,]*)\}")
_OWN_SCOPES = ("aten__", "xla__")

COLLECTIVES = frozenset(
    {"all-gather", "reduce-scatter", "collective-permute", "all-reduce", "all-to-all"}
)


@dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    operands: tuple[str, ...]
    label: str  # the innermost scope in which it was recorded, "" if there was none
    groups: tuple[tuple[int, ...], ...]  # replica groups, or (source, target) pairs of a permute


class Reach:
    """Which nodes of a graph without cycles depend on which."""

    def __init__(self, predecessors: Mapping[str, Iterable[str]]) -> None:
        """predecessors: of each node, which all stand before it in the mapping."""
        self._place: dict[str, int] = {}
        self._before: list[int] = []  # bit p of entry q: q depends on p
        for place, (name, some) in enumerate(predecessors.items()):
            bits = 0
            for other in some:
                bits |= self._before[self._place[other]] | 1 << self._place[other]
            self._place[name] = place
            self._before.append(bits)

    def before(self, first: str, second: str) -> bool:
        """Whether `second` depends on `first`, directly or through others."""
        return bool(self._before[self._place[second]] >> self._place[first] & 1)


class HloGraph:
    def __init__(self, instructions: Mapping[str, Instruction]) -> None:
        self.instructions = instructions
        self._reach = Reach({name: one.operands for name, one in instructions.items()})

    @classmethod
    def read(cls, text: str) -> "HloGraph":
        """Raises ValueError for text that is not an HLO module."""
        instructions: dict[str, Instruction] = {}
        for line in _entry(text):
            instruction = _instruction(line)
            unknown = [name for name in instruction.operands if name not in instructions]
            if unknown:
                raise ValueError(f"{instruction.name} reads {unknown[0]}, which is not above it")
            instructions[instruction.name] = instruction
        return cls(instructions)

    def before(self, first: str, second: str) -> bool:
        return self._reach.before(first, second)

    def labelled(self, label: str) -> list[Instruction]:
        return [one for one in self.instructions.values() if one.label == label]


def _entry(text: str) -> list[str]:
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("ENTRY ")]
    if len(starts) != 1:
        raise ValueError("not an HLO module: it has no entry computation")
    body = lines[starts[0] + 1 :]
    return body[: body.index("}")]


def _instruction(line: str) -> Instruction:
    matched = _INSTRUCTION.match(line)
    opcode = matched and _OPCODE.search(matched["rest"])
    if not matched or not opcode:
        raise ValueError(f"not an HLO instruction: {line.strip()}")
    operands, attributes = _split(matched["rest"][opcode.end() :])
    return Instruction(
        matched["name"],
        opcode["opcode"],
        () if opcode["opcode"] == "constant" else tuple(_NAME.findall(operands)),
        _label(attributes),
        _groups(attributes),
    )


def _split(rest: str) -> tuple[str, str]:
    """At the bracket that closes the operands; their shapes have brackets of their own."""
    depth = 1
    for place, char in enumerate(rest):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return rest[:place], rest[place + 1 :]
    raise ValueError(f"operands without an end: {rest}")


def _label(attributes: str) -> str:
    """torch-xla writes `scope.NUMBER/scope.NUMBER/operation`, the innermost scope last.

    Some operations of torch-xla open a scope of their own, which nobody has recorded.
    """
    found = _SCOPES.search(attributes)
    scopes = found[1].split("/")[:-1] if found else []
    recorded = [scope for scope in scopes if not scope.startswith(_OWN_SCOPES)]
    return recorded[-1].rpartition(".")[0] if recorded else ""


def _groups(attributes: str) -> tuple[tuple[int, ...], ...]:
    for key in ("replica_groups={", "source_target_pairs={"):
        start = attributes.find(key)
        if start >= 0:
            listed = attributes[start + len(key) :].partition("}}")[0] + "}"
            return tuple(
                tuple(int(number) for number in group.split(",") if number)
                for group in _GROUP.findall(listed)
            )
    return ()

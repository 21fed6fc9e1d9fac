"""Text for `ndtrain kernels show` and `api`: instructions, occupancy of memory, names of nki."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ndtrain.nkisim import api as nkisim_api
from ndtrain.nkisim.target import PSUM_BYTES

if TYPE_CHECKING:
    from ndtrain.nkisim import Run

COLUMNS = 72
ROWS = 8
LARGEST = 6
BAR = "#"
MODULES = {"nl": "nki.language", "nisa": "nki.isa", "ncc": "nki.collectives", "nki": "nki"}


def describe(run: Run, first: int, count: int) -> list[str]:
    """The instructions [first, +count) of core 0 (count 0: all), and how many of each there are."""
    stream = run.stream
    last = len(stream) if count == 0 else min(len(stream), first + count)
    lines = [str(stream[i]) for i in range(min(first, len(stream)), last)]
    lines.append(f"instructions {first} to {last - 1} of {len(stream)}")
    engines = ", ".join(f"{engine} {number}" for engine, number in stream.engines().most_common())
    opcodes = ", ".join(f"{opcode} {number}" for opcode, number in stream.counts().most_common())
    return [*lines, f"by engine: {engines}", f"by instruction: {opcodes}"]


def draw(run: Run, space: str) -> list[str]:
    """Live bytes per partition over the instructions, as a chart, and the largest at the peak."""
    occupancy = run.occupancy(space)
    capacity = run.target.sbuf_bytes if space == "sbuf" else PSUM_BYTES
    if occupancy.peak == 0:
        return [f"{space.upper()}: not used"]
    peaks = _columns(occupancy.steps, max(len(run.stream), 1))
    share = f"{occupancy.peak / capacity:.0%}"
    lines = [f"{space.upper()}: peak {occupancy.peak} of {capacity} bytes a partition ({share})"]
    for row in range(ROWS, 0, -1):
        level = occupancy.peak * (row - 0.5) / ROWS
        bars = "".join(BAR if live and live >= level else " " for live in peaks)
        lines.append(f"{occupancy.peak * row // ROWS:>8} |{bars}".rstrip())
    lines.append(f"{0:>8} +{'-' * COLUMNS} instruction {len(run.stream) - 1}")
    lines.append(f"live at the peak, instruction {occupancy.peak_at}:")
    for tensor in occupancy.live_at(occupancy.peak_at)[:LARGEST]:
        what = f"{list(tensor.shape)} {tensor.dtype}"
        lines.append(f"{tensor.row_bytes:>8} bytes  {what:28} {tensor.line}")
    return lines


def _columns(steps: Sequence[tuple[int, int]], length: int) -> list[int]:
    """The most live bytes within each column of the chart; steps are (instruction, bytes)."""
    peaks = [0] * COLUMNS
    for (begin, live), (end, _) in itertools.pairwise([*steps, (length, 0)]):
        first = begin * COLUMNS // length
        last = max(first + 1, -(-end * COLUMNS // length))
        for column in range(first, min(last, COLUMNS)):
            peaks[column] = max(peaks[column], live)
    return peaks


class ApiRow(NamedTuple):
    """One public name of nki; users are the files of kernels/ that use it."""

    name: str
    since: str
    generation: int
    status: str
    users: tuple[str, ...]


def api_rows() -> list[ApiRow]:
    """Every public name of nki, as the simulator lists them."""
    used = _used_names()
    return [
        ApiRow(
            f"{name.module}.{name.name}",
            name.since,
            name.generation,
            name.status,
            tuple(sorted(used.get((name.module, name.name), ()))),
        )
        for name in nkisim_api.names()
    ]


def _used_names() -> dict[tuple[str, str], set[str]]:
    """(module, name) -> the kernel files that use it."""
    from ndtrain.kernels import API_SUBSET

    found: dict[tuple[str, str], set[str]] = {}
    for path in API_SUBSET.parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="ascii"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = MODULES.get(node.value.id)
                if module:
                    found.setdefault((module, node.attr), set()).add(path.name)
    return found

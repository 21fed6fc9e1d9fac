"""Section: what overlap did, operation by operation: medians over the steps that have figures."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from ndtrain.observe.metrics import OVERLAP_FIGURES
from ndtrain.observe.overlap_figures import OPERATIONS, STEP
from ndtrain.observe.report.html import details, escape, paragraph, table
from ndtrain.observe.report.run_files import RunFiles
from ndtrain.observe.report.scale import plain

# Of `OVERLAP_FIGURES` in metrics.py: head of the column, factor to its unit.
_COLUMNS = {
    "compute_ms": ("compute, ms", 1.0),
    "comm_ms": ("communication, ms", 1.0),
    "exposed_comm_ms": ("exposed, ms", 1.0),
    "overlap_efficiency": ("efficiency, %", 100.0),
    "compute_slowdown": ("compute slowdown, x", 1.0),
    "comm_bytes": ("sent, MB", 1e-6),
    "extra_bytes": ("extra memory, MB", 1e-6),
}


def operations(run: RunFiles) -> str:
    maps = [record["overlap"] for record in run.steps if isinstance(record.get("overlap"), dict)]
    if not any(maps):
        why = "an older run, or a device whose times only its own profile has"
        return paragraph(f"No step has such figures: {why}.", "muted")
    names = dict.fromkeys(
        [*OPERATIONS, *(name for one in maps for name in one if name != STEP), STEP]
    )
    rows = []
    for name in names:
        own = [one[name] for one in maps if isinstance(one.get(name), dict)]
        if own:
            rows.append([name, *(_median(own, *column) for column in _columns())])
    heads = ["median a step", *(head for head, _ in _COLUMNS.values())]
    return table(heads, rows, numbers=len(_COLUMNS)) + details("What the columns mean", _meanings())


def _columns() -> list[tuple[str, float]]:
    return [(key, factor) for key, (_, factor) in _COLUMNS.items()]


def _median(figures: Sequence[dict[str, Any]], key: str, factor: float) -> str:
    values = [f[key] for f in figures if isinstance(f.get(key), int | float)]
    return plain(median(values) * factor) if values else "n/a"


def _meanings() -> str:
    return "".join(
        f"<p><b>{escape(head)}</b>: {escape(OVERLAP_FIGURES[key])}</p>"
        for key, (head, _) in _COLUMNS.items()
    )

"""The head of a report: what the run is, how it stands, its figures, what could not be read."""

from collections.abc import Callable, Sequence
from statistics import median

from ndtrain.observe.report.html import escape, paragraph, tiles
from ndtrain.observe.report.run_files import RunFiles
from ndtrain.observe.report.scale import milliseconds, short
from ndtrain.observe.sinks import Record

_KINDS = {"finished": "good", "failed": "failure", "unhealthy": "failure", "preempted": "warning"}

# Key of the records, name, how a value is shown.
_MEDIANS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("tokens_per_second", "tokens/s", short),
    ("mfu", "MFU", lambda share: f"{100 * share:.1f} %"),
    ("step_ms", "step", milliseconds),
    ("overlap_pct", "communication hidden", lambda percent: f"{percent:.0f} %"),
)


def summary(run: RunFiles) -> str:
    problems = "".join(paragraph(problem, "problem") for problem in run.problems)
    return f"<h1>{escape(run.name)}</h1>" + _state(run) + problems + tiles(_figures(run))


def _state(run: RunFiles) -> str:
    if run.status is None:
        return paragraph("No status: the run was cut while it started.", "warning")
    status = run.status
    shown = f'<span class="badge {_KINDS.get(status.state, "")}">{status.state}</span>'
    words = [f"{status.step} of {run.setting('train.steps', '?')} steps"]
    if status.checkpoint:
        words.append(f"last checkpoint {status.checkpoint}")
    if status.reason:
        words.append(status.reason)
    if status.state == "running" and run.status_time is not None:
        # A run that was killed with all its processes says so for ever.
        words.append(f"as of {run.status_time:%Y-%m-%d %H:%M:%S} UTC")
    if status.retryable:
        words.append("the same command goes on from here")
    return f"<p>{shown} {escape('; '.join(words))}</p>"


def _figures(run: RunFiles) -> list[tuple[str, str]]:
    """What is not known is left out."""
    figures = []
    if run.steps:
        figures.append(("train loss, nats", f"{run.steps[-1]['loss']:.4f}"))
    if run.evaluations:
        figures.append(("held-out loss, nats", f"{run.evaluations[-1]['held_out_loss']:.4f}"))
    for key, name, render in _MEDIANS:
        values = _values(run.steps, key)
        if values:
            figures.append((f"{name}, median", render(median(values))))
    used = _values(run.steps, "memory_gib")
    if used:
        figures.append(("memory, largest rank", f"{max(used):.2f} GiB"))
    return figures


def _values(records: Sequence[Record], key: str) -> list[float]:
    return [r[key] for r in records if isinstance(r.get(key), int | float)]

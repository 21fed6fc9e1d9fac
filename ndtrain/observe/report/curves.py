"""Sections that are curves over the steps: loss, throughput, time split, memory."""

from collections.abc import Sequence
from statistics import median

from ndtrain.observe.report.charts import Mark, Points, Series, line_chart, stacked_chart
from ndtrain.observe.report.html import paragraph, table
from ndtrain.observe.report.run_files import RunFiles
from ndtrain.observe.report.scale import finite, milliseconds, plain
from ndtrain.observe.sinks import Record

_NO_STEPS = "No step has ended yet."
_MARKED = ("resume", "warning", "failure", "stop")


def loss(run: RunFiles) -> str:
    train = _points(run.steps, "loss")
    held_out = _points(run.evaluations, "held_out_loss")
    series = [
        Series("train", train, "blue"),
        Series("held out", held_out, "orange", dots=len(held_out) <= 60),
    ]
    chart = line_chart(series, "nats per token", marks(run))
    if not chart:
        return paragraph(_NO_STEPS, "muted")
    rows = []
    for one in series:
        values = finite(one.points)
        if values:
            step, best = min(values, key=lambda point: point[1])
            last_step, last = values[-1]
            rows.append([one.name, f"{last:.4f}", f"{last_step:.0f}", f"{best:.4f}", f"{step:.0f}"])
    words = "" if finite(held_out) else paragraph("No evaluation on held-out data.", "muted")
    lost = len(train) - len(finite(train))
    if lost:
        words += paragraph(f"The loss of {lost} steps is not finite: a gap in the line.", "problem")
    heads = ["loss, nats per token", "last", "at step", "lowest", "at step"]
    return chart + table(heads, rows, numbers=4) + words + _legend(run)


def throughput(run: RunFiles) -> str:
    rate = _points(run.steps, "tokens_per_second")
    chart = line_chart([Series("all ranks", rate, "blue")], "tokens/s", marks(run), from_zero=True)
    if not chart:
        return paragraph(_NO_STEPS, "muted")
    rows = [_row("tokens/s, all ranks", rate)]
    rows.append(_row("tokens/s, each rank", _points(run.steps, "tokens_per_second_per_device")))
    rows.append(_row("model TFLOP/s, all ranks", _points(run.steps, "tflops")))
    mfu = [(x, None if y is None else 100 * y) for x, y in _points(run.steps, "mfu")]
    if finite(mfu):
        rows.append(_row("MFU, %", mfu))
        chart += line_chart([Series("MFU", mfu, "green")], "%", marks(run), from_zero=True)
        words = (
            "MFU: the model's own FLOPs, recomputation not counted, over the peak of the devices;"
            " on a CPU that is the matmul rate measured when the run started."
        )
    else:
        words = "MFU: n/a, the peak of this hardware is not known."
    return chart + _quantiles(rows) + paragraph(words, "muted")


def time_split(run: RunFiles) -> str:
    """Stacked: compute and all the rest, exposed communication, waiting for data."""
    needed = ("step_ms", "data_ms", "comm_ms", "exposed_comm_ms")
    known = [r for r in run.steps if all(r.get(key) is not None for key in needed)]
    if not known:
        return _step_times(run)
    exposed, data = _points(known, "exposed_comm_ms"), _points(known, "data_ms")
    rest: Points = [
        (r["step"], max(0.0, r["step_ms"] - r["exposed_comm_ms"] - r["data_ms"])) for r in known
    ]
    hidden: Points = [(r["step"], r["comm_ms"] - r["exposed_comm_ms"]) for r in known]
    chart = stacked_chart(
        [
            Series("compute and the rest", rest, "blue"),
            Series("exposed communication", exposed, "red"),
            Series("data", data, "purple"),
        ],
        "ms",
        marks(run),
    )
    share = _points(known, "overlap_pct")
    if finite(share):
        series = [Series("communication hidden behind compute", share, "green")]
        chart += line_chart(series, "%", marks(run), from_zero=True)
    rows = [
        _row("step, ms", _points(known, "step_ms")),
        _row("compute and the rest, ms", rest),
        _row("communication, ms", _points(known, "comm_ms")),
        _row("of it hidden behind compute, ms", hidden),
        _row("of it exposed, ms", exposed),
        _row("waiting for data, ms", data),
    ]
    words = paragraph("Means over the ranks.", "muted")
    if run.saves:
        took = [record["save_ms"] for record in run.saves]
        words = paragraph(f"{len(took)} saves, from copy to published: {_clock(took)}.") + words
    return chart + _quantiles(rows) + words


def _step_times(run: RunFiles) -> str:
    """Where only a profile of the device could tell compute from communication."""
    times = _points(run.steps, "step_ms")
    chart = line_chart([Series("step", times, "blue")], "ms", marks(run), from_zero=True)
    if not chart:
        return paragraph(_NO_STEPS, "muted")
    words = "How much of a step is communication was not measured."
    return chart + _quantiles([_row("step, ms", times)]) + paragraph(words, "muted")


def memory(run: RunFiles) -> str:
    used = _points(run.steps, "memory_gib")
    series = [Series("largest rank", used, "purple")]
    chart = line_chart(series, "GiB", marks(run), from_zero=True)
    if not chart:
        return paragraph(_NO_STEPS, "muted")
    share = [y for _, y in finite(_points(run.steps, "memory_pct"))]
    step, most = max(finite(used), key=lambda point: point[1])
    words = f"At most {most:.2f} GiB resident in one rank, at step {step:.0f}"
    words += f": {max(share):.0f} % of the machine's." if share else "."
    return chart + paragraph(words)


def marks(run: RunFiles) -> list[Mark]:
    """Steps of the events that explain a curve; of the warnings at one step the first."""
    found: dict[tuple[int, bool], Mark] = {}
    for event in run.events:
        if event.kind in _MARKED:
            is_minor = event.kind == "warning"
            mark = Mark(event.step, f"step {event.step}: {event.text}", is_minor)
            found.setdefault((event.step, is_minor), mark)
    return list(found.values())


def _points(records: Sequence[Record], key: str) -> list[tuple[float, float | None]]:
    return [(record["step"], _number(record.get(key))) for record in records if key in record]


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _row(name: str, points: Points) -> list[str]:
    values = sorted(y for _, y in finite(points))
    if not values:
        return [name, "n/a", "n/a", "n/a", "n/a"]
    last = len(values) - 1
    tenth, ninetieth = values[round(0.1 * last)], values[round(0.9 * last)]
    return [name, *map(plain, (median(values), tenth, ninetieth, finite(points)[-1][1]))]


def _quantiles(rows: list[list[str]]) -> str:
    return table(["over all steps", "median", "10 %", "90 %", "last step"], rows, numbers=4)


def _clock(values: Sequence[float]) -> str:
    return f"median {milliseconds(median(values))}, longest {milliseconds(max(values))}"


def _legend(run: RunFiles) -> str:
    if not marks(run):
        return ""
    return paragraph(
        "Dashed: resumes, stops and failures; ticks at the foot: warnings; see Events.", "muted"
    )

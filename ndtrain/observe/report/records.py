"""Sections that are lists: events, the plan's choices, configuration, environment."""

from collections import Counter
from typing import Any

from ndtrain.config.explain import scalar
from ndtrain.observe.report.html import details, escape, paragraph, table
from ndtrain.observe.report.run_files import RunFiles
from ndtrain.observe.report.scale import short

MOST_EVENTS = 300
_BADGES = {"warning": "warning", "failure": "failure", "finish": "good"}
_DEFAULT = "default"
# Of plan.json: what was weighed with, its factor and unit.
_FIGURES = {
    "matmul_flops": ("matmul rate of a rank", 1e-9, "GFLOP/s"),
    "memory_bytes_per_s": ("memory rate of a rank", 1e-9, "GB/s"),
    "link_bytes_per_s": ("link between tensor ranks", 8e-9, "Gbit/s"),
    "link_latency_s": ("latency of a hop", 1e6, "us"),
    "stolen_s_per_byte": ("compute that a byte in flight costs", 1e9, "ns"),
}


def events(run: RunFiles) -> str:
    if not run.events:
        return paragraph("None recorded: the run is older than events.jsonl.", "muted")
    counts = Counter(event.kind for event in run.events)
    words = ", ".join(f"{number} x {kind}" for kind, number in counts.most_common())
    shown = run.events
    left_out = ""
    if len(shown) > MOST_EVENTS:
        first, last = shown[: MOST_EVENTS // 3], shown[-2 * MOST_EVENTS // 3 :]
        number = len(shown) - len(first) - len(last)
        shown = [*first, *last]
        left_out = paragraph(f"{number} events between them are in events.jsonl only.", "problem")
    rows = [
        f'<tr><td class="time">{escape(_clock(event.time))}</td>'
        f'<td class="number">{event.step}</td>'
        f'<td><span class="badge {_BADGES.get(event.kind, "")}">{event.kind}</span></td>'
        f'<td class="words">{escape(event.text)}</td></tr>'
        for event in shown
    ]
    head = '<tr><th>time (UTC)</th><th class="number">step</th><th></th><th></th></tr>'
    body = f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'
    return paragraph(words) + left_out + body


def _clock(time: str) -> str:
    return time.removesuffix("+00:00").replace("T", " ")


def plan(run: RunFiles) -> str:
    decision = run.plan.get("decision")
    choices = decision.get("choices") if isinstance(decision, dict) else None
    if not isinstance(choices, list) or not choices:
        return paragraph("No plan yet: it is decided when the run starts.", "muted")
    rows = [_choice(choice) for choice in choices if isinstance(choice, dict)]
    numbers = ["predicted, ms", "blocking, ms", "saved, %", "extra memory, MB"]
    parts = [table(["operation", "pass", "form", *numbers], rows, numbers=len(numbers))]
    figures = run.plan.get("figures")
    if isinstance(figures, dict):
        measured = [
            [name, f"{short(figures[key] * factor)} {unit}"]
            for key, (name, factor, unit) in _FIGURES.items()
            if isinstance(figures.get(key), int | float)
        ]
        source = run.plan.get("source", "measured")
        source = "measured when the run started" if source == "measured" else str(source)
        parts.append(table([source, ""], measured, numbers=1))
        parts.append(
            paragraph(
                "predicted and blocking: one operation on the virtual clock with these figures."
                " What the whole step really hid is under Time and Overlap by operation.",
                "muted",
            )
        )
    else:
        words = (
            "Nothing was weighed: the forms are those of the configuration, or there is one rank."
        )
        parts.append(paragraph(words, "muted"))
    return "".join(parts)


def _choice(choice: dict[str, Any]) -> list[str]:
    predicted, blocking = choice.get("predicted_ms"), choice.get("blocking_ms")
    names = [str(choice.get(key, "")) for key in ("operation", "when", "mode")]
    names[-1] += ", one node at a time" if choice.get("serial") else ""
    extra = choice.get("extra_bytes")
    megabytes = short(extra / 1e6) if isinstance(extra, int | float) else "n/a"
    if isinstance(predicted, int | float) and isinstance(blocking, int | float) and blocking:
        saved = f"{100 * (1 - predicted / blocking):.0f}"
        return [*names, short(predicted), short(blocking), saved, megabytes]
    return [*names, "n/a", "n/a", "n/a", megabytes]


def configuration(run: RunFiles) -> str:
    if not run.config:
        return paragraph("config.yaml could not be read.", "problem")
    rows = [
        (f"{section}.{name}", _value(value), run.origins.get(f"{section}.{name}", "not recorded"))
        for section, values in run.config.items()
        for name, value in values.items()
    ]
    chosen = [row for row in rows if row[2] != _DEFAULT]
    defaults = [row[:2] for row in rows if row[2] == _DEFAULT]
    parts = [table(["key", "value", "from"], chosen)] if chosen else []
    if defaults:
        content = table(["key", "value"], defaults)
        parts.append(details(f"{len(defaults)} keys have their default", content))
    if run.overrides:
        words = "Overrides: " + "  ".join(run.overrides)
        parts.insert(0, f"<p><code>{escape(words)}</code></p>")
    return "".join(parts)


def _value(value: object) -> str:
    try:
        return scalar(value)
    except AssertionError:  # what no key of ours can hold
        return str(value)


def environment(run: RunFiles) -> str:
    if not run.environment:
        return paragraph("env.json could not be read.", "muted")
    rows = []
    for name, value in run.environment.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items()) or "none"
        rows.append((name, value))
    return table(["", "of the latest start"], rows)

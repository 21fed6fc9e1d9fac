"""The report as a whole: the list of its sections, and how they become one document.

    html = render(read_run(Path("runs/small")))

A section is a row of `SECTIONS`: an anchor, a title and a function from the run to HTML. What a run
does not have, its section says in a sentence.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import ndtrain
from ndtrain.observe.report.curves import loss, memory, throughput, time_split
from ndtrain.observe.report.html import page
from ndtrain.observe.report.operations import operations
from ndtrain.observe.report.records import configuration, environment, events, plan
from ndtrain.observe.report.run_files import RunFiles
from ndtrain.observe.report.step_picture import step_picture
from ndtrain.observe.report.summary import summary


class Section(NamedTuple):
    anchor: str
    title: str
    render: Callable[[RunFiles], str]


SECTIONS: tuple[Section, ...] = (
    Section("loss", "Loss", loss),
    Section("throughput", "Throughput", throughput),
    Section("time", "Time", time_split),
    Section("operations", "Overlap by operation", operations),
    Section("step", "One step", step_picture),
    Section("memory", "Memory", memory),
    Section("plan", "Overlap plan", plan),
    Section("events", "Events", events),
    Section("configuration", "Configuration", configuration),
    Section("environment", "Environment", environment),
)


def render(run: RunFiles) -> str:
    """One HTML document without a reference to anything outside it."""
    parts = [(section.anchor, section.title, section.render(run)) for section in SECTIONS]
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return page(
        f"{run.name} - ndtrain", summary(run), parts, f"ndtrain {ndtrain.__version__}, {when}"
    )

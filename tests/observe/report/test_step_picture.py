"""The picture of a step: its bounds, the lanes, and what is called exposed."""

from pathlib import Path

import pytest

from ndtrain.observe.report.lanes import Bar, Lane, lanes
from ndtrain.observe.report.run_files import read_run
from ndtrain.observe.report.step_picture import step_picture
from ndtrain.observe.run_directory import RunDirectory
from tests.observe.report.runs import add_trace, balanced, make_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "small", num_steps=2)


def test_the_last_step_in_figures(run: RunDirectory) -> None:
    add_trace(run, rank=0, num_steps=3)
    html = step_picture(read_run(run.path))
    balanced(html)
    assert "The last of 3 traced steps, 100 ms on rank 0" in html
    row = html[html.index("<td>rank 0</td>") :]
    figures = [cell.partition("<")[0] for cell in row.split('class="number">')[1:]]
    assert figures == ["100", "50", "30", "10", "20"]  # step, compute, comm, hidden, exposed


def test_the_step_has_its_number_when_all_that_was_asked_for_is_there(run: RunDirectory) -> None:
    add_trace(run, rank=0, num_steps=2)
    run.config_file.write_text("observe: {trace_steps: [7, 8]}\n")
    assert "Step 8, 100 ms" in step_picture(read_run(run.path))


def test_a_trace_without_steps(run: RunDirectory) -> None:
    run.trace_file(0).write_text('{"traceEvents": []}')
    assert "no whole step" in step_picture(read_run(run.path))


def test_thin_bars_are_joined_and_wide_ones_are_not() -> None:
    thin = [Bar(k * 0.01, k * 0.01 + 0.005, f"n{k}", "blue") for k in range(1000)]
    wide = [Bar(20, 40, "a", "blue"), Bar(40.01, 60, "b", "blue")]
    html = lanes([Lane("compute", [*thin, *wide])], 100.0)
    balanced(html)
    assert html.count("<rect") < 120
    assert "n0 ...: " in html
    assert ">a: 0.02 ms<" in html
    assert ">b: 0.02 ms<" in html


def test_the_exposed_part_is_drawn_over_the_transfer() -> None:
    bars = [Bar(10, 50, "gather", "green"), Bar(10, 20, "exposed", "red")]
    html = lanes([Lane("gather", bars)], 100.0)
    assert html.index("--green") < html.index("--red")

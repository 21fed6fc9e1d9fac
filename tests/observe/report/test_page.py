"""The report as a whole: of any run, self-contained, well-formed, escaped, honest about gaps."""

import json
import os
import re
from pathlib import Path

import pytest

from ndtrain.observe.events import append_event
from ndtrain.observe.report.page import SECTIONS, render
from ndtrain.observe.report.run_files import read_run
from ndtrain.observe.run_directory import RunDirectory, Status
from ndtrain.observe.sinks import JsonlSink
from tests.observe.report.runs import add_trace, balanced, make_run, step_record


def report(run: RunDirectory) -> str:
    html = render(read_run(run.path))
    balanced(html)
    return html


def sections(html: str) -> dict[str, str]:
    found = re.findall(r'<section id="(\w+)"[^>]*>(.*?)</section>', html, re.S)
    return dict(found)


def test_a_whole_run_has_every_section_with_its_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", num_steps=40, eval_every=10)
    add_trace(run, rank=0, num_steps=2)
    add_trace(run, rank=1, num_steps=2)
    parts = sections(report(run))
    assert list(parts) == [section.anchor for section in SECTIONS]
    for anchor in ("loss", "throughput", "time", "step", "memory"):
        assert "<svg" in parts[anchor], anchor
    assert "held out" in parts["loss"]
    assert "0.1951" in parts["loss"]  # 8 / 41, the last loss
    assert "1,020" in parts["throughput"]  # median tokens/s
    assert "exposed communication" in parts["time"]
    assert "0.54 GiB" in parts["memory"]
    assert ">50<" in parts["plan"]  # percent saved
    assert ">1.25<" in parts["plan"]  # MB more
    assert "1 Gbit/s" in parts["plan"]
    assert "the command line" in parts["configuration"]
    assert "torch" in parts["environment"]
    assert parts["step"].count("exposed on gather") == 2  # one of each rank, in the last step


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", num_steps=20, eval_every=5)
    add_trace(run, rank=0, num_steps=1)
    html = report(run)
    seen = balanced(html).seen
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in seen}
    attributes = {(name, value) for _, found in seen for name, value in found.items()}
    assert not [name for name, _ in attributes if name.startswith("on") or name == "src"]
    assert all(str(value).startswith("#") for name, value in attributes if name == "href")
    assert "url(" not in html
    assert "@import" not in html


def test_what_a_user_or_a_file_says_is_never_markup(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>'
    run = make_run(tmp_path / "small", num_steps=3)
    run.write_status(Status(state="failed", step=3, reason=evil, checkpoint=evil))
    append_event(run.events_file, 3, f"warning: {evil}")
    run.config_file.write_text(f"run:\n  name: '{evil}'\n'{evil}': {{'{evil}': '{evil}'}}\n")
    run.origins_file.write_text(json.dumps({f"{evil}.{evil}": evil}))
    run.overrides_file.write_text(f"run.name={evil}\n")
    run.environment_file.write_text(json.dumps({evil: {evil: evil}}))
    plan = {"decision": {"choices": [{"operation": evil, "when": evil, "mode": evil}]}}
    (run.path / "plan.json").write_text(json.dumps(plan))
    add_trace(run, rank=0, num_steps=1)
    trace = run.trace_file(0).read_text().replace("layers.0.qkv", json.dumps(evil)[1:-1])
    run.trace_file(0).write_text(trace)
    run.metrics_file.write_text(json.dumps(step_record(1, loss=2.0)) + f"\n{evil}\n{evil}\n")
    html = report(run)
    seen = balanced(html)
    assert "script" not in {tag for tag, _ in seen.seen}
    assert "".join(seen.text).count(evil) >= 10


def test_a_running_run_with_a_torn_last_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", num_steps=10, state="running")
    os.truncate(run.metrics_file, run.metrics_file.stat().st_size - 7)
    files = read_run(run.path)
    assert [record["step"] for record in files.steps] == list(range(1, 10))
    assert not files.problems  # it is being written
    assert re.search(r"running</span> 10 of 200 steps; as of 2\d{3}-.* UTC", report(run))


def test_damage_is_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", num_steps=5)
    lines = run.metrics_file.read_text().splitlines()
    run.metrics_file.write_text("\n".join([lines[0], "{not json", *lines[1:]]) + "\n")
    run.status_file.write_text("{}")
    run.trace_file(0).write_text('{"traceEvents": [{"ph": "X"}]}')
    (run.path / "plan.json").write_text("[]")
    files = read_run(run.path)
    assert len(files.steps) == 5
    assert len(files.problems) == 4
    html = report(run)
    for name in ("metrics.jsonl: 1 of 6", "status.json", "trace/rank_0000.json", "plan.json"):
        assert name in html


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "small")
    run.path.mkdir()
    run.config_file.write_text("run: {name: small}\n")
    parts = sections(report(run))
    assert "<svg" not in "".join(parts.values())
    for anchor in ("loss", "throughput", "time", "memory"):
        assert "No step has ended yet" in parts[anchor]
    assert "observe.trace_steps" in parts["step"]


@pytest.mark.parametrize("num_steps", [1, 2])
def test_a_run_of_one_step_and_of_two(tmp_path: Path, num_steps: int) -> None:
    run = make_run(tmp_path / "small", num_steps=num_steps)
    parts = sections(report(run))
    for anchor in ("loss", "throughput", "time", "memory"):
        assert "<svg" in parts[anchor]
        assert "nan" not in parts[anchor]
    assert "No evaluation" in parts["loss"]


def test_a_long_run_is_thinned_and_loses_no_extreme(tmp_path: Path) -> None:
    run = make_run(tmp_path / "long", num_steps=20_000)
    with run.metrics_file.open("a") as stream:
        stream.write(json.dumps(step_record(20_001, loss=77.25)) + "\n")
    html = report(run)
    assert len(html) < 300_000
    assert 'class="band"' in html
    assert ">60<" in sections(html)["loss"]  # the axis reaches the spike


def test_steps_that_were_run_again_count_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", num_steps=9)
    again = JsonlSink(run.metrics_file, first_step=6)
    assert again.repeated == 9
    for step in range(6, 9):
        again.write(step_record(step, loss=0.5))
    again.close()
    append_event(run.events_file, 5, "repeated: steps 6 to 9, which no checkpoint has")
    with run.metrics_file.open("a") as stream:  # as if two processes had written
        stream.write(json.dumps(step_record(7, loss=0.25)) + "\n")
    files = read_run(run.path)
    assert [record["step"] for record in files.steps] == list(range(1, 9))
    assert [record["loss"] for record in files.steps[5:]] == [0.5, 0.25, 0.5]
    loss = sections(report(run))["loss"]
    assert 'class="mark"' in loss
    assert "repeated: steps 6 to 9" in loss


def test_losses_that_are_not_finite_are_gaps_and_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", num_steps=5)
    sink = JsonlSink(run.metrics_file, first_step=6)
    sink.write(step_record(6, loss=float("nan")))
    sink.write(step_record(7, loss=float("inf")))
    sink.close()
    loss = sections(report(run))["loss"]
    assert "The loss of 2 steps is not finite" in loss
    assert "nan" not in loss.replace("finite", "")


def test_overlap_by_operation_and_saves(tmp_path: Path) -> None:
    figures = {"compute_ms": 50.0, "comm_ms": 30.0, "exposed_comm_ms": 3.0, "comm_bytes": 2_500_000}
    overlap = {"step": figures, "qkv": {**figures, "overlap_efficiency": 0.9}}
    run = make_run(tmp_path / "small", num_steps=3, overlap=overlap)
    with run.metrics_file.open("a") as stream:
        stream.write('{"step": 2, "save_ms": 1500.0}\n')
    parts = sections(report(run))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", parts["operations"])
    assert cells[:8] == ["qkv", "50", "30", "3", "90", "n/a", "2.5", "n/a"]
    assert cells[8] == "step"
    assert "1 saves, from copy to published: median 1.5 s" in parts["time"]


def test_a_device_that_only_a_profile_can_tell_about(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", num_steps=4, comm_ms=None, exposed_comm_ms=None)
    part = sections(report(run))["time"]
    assert "<svg" in part
    assert "communication was not measured" in part
    without = make_run(tmp_path / "without", num_steps=2, overlap={})
    assert "only its own profile has" in sections(report(without))["operations"]


def test_unknown_hardware_has_no_mfu(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", num_steps=4, mfu=None, overlap_pct=None)
    assert "MFU: n/a" in sections(report(run))["throughput"]


def test_many_events_are_cut_in_the_middle_and_that_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", num_steps=2)
    for step in range(500):
        append_event(run.events_file, step, f"saved step_{step:08d}")
    part = sections(report(run))["events"]
    assert "201 events between them are in events.jsonl only" in part
    assert part.count("<tr>") == 301
    assert "step_00000499" in part

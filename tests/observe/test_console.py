"""The console: plain text off a terminal; on one a bar that never wraps and never stays behind."""

import io
import re

import pytest

from ndtrain.core.errors import UserError
from ndtrain.observe.console import ConsoleSink, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(output: str) -> list[str]:
    """What a terminal shows after `output`: carriage return and erase-to-end applied."""
    lines = [""]
    for token in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", output):
        if token == "\n":
            lines.append("")
        elif token == "\x1b[K":
            lines[-1] = ""  # always sent right after a carriage return
        elif token != "\r" and not token.startswith("\x1b"):
            lines[-1] += token
    return lines


def run_steps(stream: io.StringIO, num_steps: int = 20, **options: object) -> ConsoleSink:
    settings = {"log_every": 5, "progress": "auto", "environment": {}, **options}
    console = ConsoleSink(stream, num_steps=num_steps, **settings)  # type: ignore[arg-type]
    for step in range(1, num_steps + 1):
        console.write({"step": step, "loss": 8.0, "step_ms": 500.0})
    return console


def test_off_a_terminal_there_are_lines_without_control_characters() -> None:
    stream = io.StringIO()
    console = run_steps(stream)
    console.note("written to runs/x")
    console.close()
    text = stream.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    assert [line.split(" | ")[0] for line in text.splitlines()] == [
        "step 1/20",
        "step 5/20",
        "step 10/20",
        "step 15/20",
        "step 20/20",
        "written to runs/x",
    ]


def test_an_evaluation_is_always_shown() -> None:
    stream = io.StringIO()
    console = ConsoleSink(stream, num_steps=20, log_every=10, progress="lines", environment={})
    console.write({"step": 3, "held_out_loss": 8.0})
    assert stream.getvalue() == "step 3/20 | held-out loss 8.0000\n"


def test_on_a_terminal_the_bar_is_below_the_lines_and_goes_at_the_end() -> None:
    stream = Terminal()
    console = run_steps(stream)
    before_close = screen(stream.getvalue())
    assert before_close[-1].startswith("[=")
    assert "100% 20/20" in before_close[-1]
    console.note("a note")
    console.close()
    console.close()
    after_close = screen(stream.getvalue())
    assert after_close[-2:] == ["a note", ""]
    assert not any("[=" in line for line in after_close)


def test_the_time_left_comes_from_recent_steps() -> None:
    stream = io.StringIO()
    console = ConsoleSink(stream, num_steps=100, log_every=1, progress="lines", environment={})
    console.write({"step": 1, "step_ms": 60_000.0})
    for step in range(2, 51):
        console.write({"step": step, "step_ms": 200.0})
    assert stream.getvalue().splitlines()[-1].endswith("eta 00:00:10")


@pytest.mark.parametrize(
    ("environment", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]
)
def test_no_color(environment: dict[str, str], colour: bool) -> None:
    stream = Terminal()
    run_steps(stream, environment=environment)
    assert ("\x1b[2m" in stream.getvalue()) == colour


def test_a_dumb_terminal_gets_plain_lines() -> None:
    stream = Terminal()
    run_steps(stream, environment={"TERM": "dumb"})
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_progress_off_leaves_notes_only() -> None:
    stream = Terminal()
    run_steps(stream, progress="off").note("a note")
    assert stream.getvalue() == "a note\n"


def test_progress_bar_alone_prints_no_step_lines() -> None:
    stream = Terminal()
    run_steps(stream, progress="bar").close()
    assert screen(stream.getvalue()) == [""]


def test_a_bar_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UserError, match=r"observe\.progress=bar needs a terminal"):
        run_steps(io.StringIO(), progress="bar")


@pytest.mark.parametrize("columns", [1, 8, 20, 30, 80, 200])
@pytest.mark.parametrize("step", [0, 1, 100, 199, 200])
def test_the_bar_never_wraps(columns: int, step: int) -> None:
    assert len(progress_bar(step, 200, " 00:10:00 left", columns)) < max(columns, 2)


def test_the_bar_is_as_full_as_the_run() -> None:
    assert progress_bar(0, 200, "", 80).count("=") == 0
    assert progress_bar(100, 200, "", 80).count("=") == 20
    assert progress_bar(200, 200, "", 80).count("=") == 40

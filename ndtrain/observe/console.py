"""The terminal's view of a run: one line a step, and on a terminal a progress bar below them.

    console = ConsoleSink(sys.stderr, num_steps=200, log_every=10, progress="auto")
    console.write({"step": 10, "loss": 5.2, "step_ms": 812.0})

Off a terminal only plain lines are written, without one escape code. NO_COLOR (no-color.org) and
TERM=dumb switch colours off; TERM=dumb the bar too.
"""

import os
import shutil
from collections import deque
from collections.abc import Mapping
from statistics import fmean
from typing import TextIO

from ndtrain.core.errors import UserError
from ndtrain.observe.sinks import Record
from ndtrain.observe.step_line import clock, step_line

_DIM, _PLAIN, _CLEAR_LINE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


class ConsoleSink:
    """Lines, bar, both or neither, by `observe.progress`.

    auto: lines, and a bar on a terminal; bar: the bar alone; lines: lines alone; off: notes alone.
    Raises UserError for `bar` where there is no terminal to draw it on.
    """

    def __init__(
        self,
        stream: TextIO,
        num_steps: int,
        log_every: int,
        progress: str,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        can_draw = stream.isatty() and environment.get("TERM") != "dumb"
        if progress == "bar" and not can_draw:
            raise UserError(
                "observe.progress=bar needs a terminal, and the output is none",
                help="use observe.progress=auto or lines",
            )
        self._stream = stream
        self._num_steps = num_steps
        self._log_every = log_every
        self._lines = progress in ("auto", "lines")
        self._bar = can_draw and progress in ("auto", "bar")
        self._colour = can_draw and not environment.get("NO_COLOR")
        self._step = 0
        self._bar_drawn = False
        # The mean of the last steps forgets the first ones, which warm up.
        self._recent_ms: deque[float] = deque(maxlen=20)

    def write(self, record: Record) -> None:
        self._step = record["step"]
        if record.get("step_ms") is not None:
            self._recent_ms.append(record["step_ms"])
        if self._lines and self._is_due(record):
            self._print(step_line(record, self._num_steps, self._seconds_left()))
        if self._bar:
            self._draw_bar()

    def note(self, text: str) -> None:
        self._print(text)
        if self._bar and self._bar_drawn:
            self._draw_bar()

    def close(self) -> None:
        """Takes the bar away and leaves the cursor at the start of a line."""
        if self._bar_drawn:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()
            self._bar_drawn = False

    def _is_due(self, record: Record) -> bool:
        step = record["step"]
        is_evaluation = "held_out_loss" in record
        return is_evaluation or step % self._log_every == 0 or step in (1, self._num_steps)

    def _seconds_left(self) -> float | None:
        if not self._recent_ms:
            return None
        return (self._num_steps - self._step) * fmean(self._recent_ms) / 1e3

    def _print(self, line: str) -> None:
        clear = _CLEAR_LINE if self._bar_drawn else ""
        if self._colour:
            line = line.replace(" | ", f" {_DIM}|{_PLAIN} ")
        self._stream.write(f"{clear}{line}\n")
        self._stream.flush()

    def _draw_bar(self) -> None:
        seconds_left = self._seconds_left()
        eta = "" if seconds_left is None else f" {clock(seconds_left)} left"
        columns = shutil.get_terminal_size().columns
        bar = progress_bar(self._step, self._num_steps, eta, columns)
        self._stream.write(f"{_CLEAR_LINE}{bar}")
        self._stream.flush()
        self._bar_drawn = True


def progress_bar(step: int, num_steps: int, suffix: str, columns: int) -> str:
    """`[=====>    ]  50% 100/200` and the suffix, narrower than the terminal so it never wraps."""
    share = min(1.0, step / num_steps)
    text = f" {100 * share:3.0f}% {step}/{num_steps}{suffix}"
    width = min(40, columns - len(text) - 3)
    if width < 5:
        return text.strip()[: max(0, columns - 1)]
    filled = int(share * width)
    head = ">" if filled < width else ""
    return f"[{'=' * filled}{head}{' ' * (width - filled - len(head))}]{text}"

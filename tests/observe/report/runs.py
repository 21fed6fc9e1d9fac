"""Run directories as real runs leave them, made from the writers that runs use.

run = make_run(tmp_path / "small", num_steps=40, eval_every=10)
add_trace(run, rank=0, num_steps=2)
balanced(html)                     # raises AssertionError at a tag that is not closed
"""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from ndtrain.config.schema import Config, Run
from ndtrain.core.atomic import write_json
from ndtrain.core.spans import Span
from ndtrain.observe.events import EventSink
from ndtrain.observe.run_directory import RunDirectory, Status
from ndtrain.observe.sinks import JsonlSink
from ndtrain.observe.trace import write_trace

MS = 1_000_000


def step_record(step: int, **values: Any) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 8.0 / (1 + step),
        "tokens_per_second": 1000.0 + step,
        "tokens_per_second_per_device": 500.0 + step / 2,
        "tflops": 0.02,
        "mfu": 0.4,
        "step_ms": 100.0,
        "data_ms": 1.0,
        "comm_ms": 30.0,
        "exposed_comm_ms": 12.0,
        "overlap_pct": 60.0,
        "memory_gib": 0.5 + step / 1000,
        "memory_pct": 3.0,
        "grad_norm": 1.0,
        "lr": 1e-3,
        **values,
    }


def make_run(
    path: Path, num_steps: int, eval_every: int = 0, state: str = "finished", **values: Any
) -> RunDirectory:
    """values: into every step's record."""
    run = RunDirectory(path)
    run.create(Config(run=Run(name=path.name)), ["run.name=x"], {"run.name": "the command line"})
    metrics, events = JsonlSink(run.metrics_file, 0), EventSink(run.events_file)
    events.note(f"started: {path}: 2 ranks = 2 tensor x 1 data, fp32, 1 threads a rank")
    for step in range(1, num_steps + 1):
        record = step_record(step, **values)
        metrics.write(record)
        events.write(record)
        if eval_every and step % eval_every == 0:
            metrics.write({"step": step, "held_out_loss": 9.0 / (1 + step)})
    metrics.close()
    status = Status(state=state, step=num_steps)  # type: ignore[arg-type]
    run.write_status(status)
    choice = {"operation": "qkv", "when": "forward", "mode": "ring"}
    weighed = {**choice, "predicted_ms": 10.0, "blocking_ms": 20.0, "extra_bytes": 1_250_000}
    fixed = {**choice, "operation": "head", "predicted_ms": None, "blocking_ms": None}
    figures = {"matmul_flops": 35.5e9, "link_bytes_per_s": 125e6, "link_latency_s": 1.5e-3}
    plan = {"figures": figures, "decision": {"choices": [weighed, fixed]}}
    write_json(path / "plan.json", plan)
    return run


def add_trace(run: RunDirectory, rank: int, num_steps: int) -> None:
    """Steps of 100 ms: compute [10, 60), a gather [50, 80) of which [60, 80) is exposed."""
    spans = []
    for number in range(num_steps):
        start = number * 120 * MS
        spans += [
            Span("data", "host", start, start + 2 * MS, 0),
            Span("forward", "host", start + 2 * MS, start + 100 * MS, 0),
            Span("layers.0.qkv", "compute", start + 10 * MS, start + 60 * MS, 0),
            Span("layers.0.qkv.gather", "gather", start + 50 * MS, start + 80 * MS, 4096),
        ]
    write_trace(run.trace_file(rank), spans, rank, origin_ns=0)


class _Balance(HTMLParser):
    VOID = ("meta", "br", "link")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def balanced(html: str) -> _Balance:
    """Every tag is closed, in order; what was seen is in `seen` and `text`."""
    parser = _Balance()
    parser.feed(html)
    parser.close()
    assert not parser.open, parser.open
    return parser

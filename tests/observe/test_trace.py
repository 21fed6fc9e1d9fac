"""Traces: valid Trace Event Format, tracks apart, ranks on one clock, nothing lost in a merge."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndtrain.core.spans import Span, SpanRecorder
from ndtrain.observe.trace import merge_traces, trace_events, write_trace

ORIGIN = 5_000_000_000


def span(name: str, track: str, start_us: float, stop_us: float, num_bytes: int = 0) -> Span:
    return Span(name, track, ORIGIN + int(start_us * 1e3), ORIGIN + int(stop_us * 1e3), num_bytes)


STEP = [
    span("forward", "host", 0, 100),
    span("layers.0.qkv", "compute", 10, 40),
    span("layers.0.qkv.gather", "gather", 0, 10, num_bytes=40_000),
    span("layers.0.attention", "compute", 40, 90),
    span("layers.0.o.scatter", "scatter", 90, 100, num_bytes=20_000),
]


def check_trace(trace: dict[str, Any]) -> None:
    """The rules of the format that a viewer relies on."""
    events = trace["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert {event["ph"] for event in events} <= {"X", "M"}
    assert all(type(event["pid"]) is int and type(event["tid"]) is int for event in events)
    assert all(event["ph"] == "M" for event in events[: len(events) - len(complete)])
    assert all(event["dur"] >= 0 for event in complete)
    assert [event["ts"] for event in complete] == sorted(event["ts"] for event in complete)
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert {(event["pid"], event["tid"]) for event in complete} == named
    for thread in named:
        check_nesting([e for e in complete if (e["pid"], e["tid"]) == thread])


def check_nesting(events: list[dict[str, Any]]) -> None:
    open_stops: list[float] = []
    for event in events:
        start, stop = round(event["ts"] * 1e3), round((event["ts"] + event["dur"]) * 1e3)
        while open_stops and open_stops[-1] <= start:
            open_stops.pop()
        assert not open_stops or stop <= open_stops[-1], "partial overlap on one thread"
        open_stops.append(stop)


def test_a_written_trace_is_valid_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "rank_0003.json"
    write_trace(path, STEP, rank=3, origin_ns=ORIGIN)
    trace = json.loads(path.read_text())
    check_trace(trace)
    complete = {e["name"]: e for e in trace["traceEvents"] if e["ph"] == "X"}
    assert set(complete) == {span.name for span in STEP}
    assert complete["layers.0.attention"]["ts"] == 40.0
    assert complete["layers.0.attention"]["dur"] == 50.0
    assert complete["layers.0.qkv.gather"]["args"] == {
        "bytes": 40_000,
        "GB/s": 4.0,
        "operation": "qkv",
        "exposed_us": 10.0,
    }
    assert {event["pid"] for event in trace["traceEvents"]} == {3}


def test_compute_beside_a_transfer_says_how_much_longer_it_took() -> None:
    spans = [
        span("layers.0.qkv.product_0", "compute", 0, 12),
        span("layers.0.qkv.hop_1", "gather", 2, 14),
        span("layers.0.qkv.product_1", "compute", 14, 24),
        span("layers.0.o.product", "compute", 30, 40),
        span("layers.0.o.scatter", "scatter", 30, 35),
    ]
    complete = {e["name"]: e for e in trace_events(spans, 0, ORIGIN) if e["ph"] == "X"}
    assert complete["layers.0.qkv.product_0"]["args"] == {"slowdown": 1.2}
    assert "args" not in complete["layers.0.qkv.product_1"]  # it ran alone
    assert "args" not in complete["layers.0.o.product"]  # its kind never did
    counted = spans[0]._replace(num_bytes=4096)
    events = {e["name"]: e for e in trace_events([counted, *spans[1:]], 0, ORIGIN)}
    arguments = events["layers.0.qkv.product_0"]["args"]
    assert arguments == {"slowdown": 1.2, "arrived_bytes": 4096}  # it sent nothing itself


def test_compute_and_communication_have_their_own_named_tracks() -> None:
    events = trace_events(STEP, rank=0, origin_ns=ORIGIN)
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert [names[thread] for thread in sorted(names)] == ["host", "compute", "gather", "scatter"]
    assert all(names[e["tid"]] == e["cat"] for e in events if e["ph"] == "X")
    (process,) = [e for e in events if e["name"] == "process_name"]
    assert process["args"]["name"] == "rank 0"


def test_transfers_under_way_together_are_drawn_side_by_side() -> None:
    spans = [span("a", "gather", 0, 10), span("b", "gather", 5, 15), span("c", "gather", 12, 20)]
    events = trace_events(spans, rank=0, origin_ns=ORIGIN)
    check_trace({"traceEvents": events})
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    lanes = {e["name"]: names[e["tid"]] for e in events if e["ph"] == "X"}
    assert lanes == {"a": "gather", "b": "gather 2", "c": "gather"}


def test_ranks_agree_after_a_merge_although_their_clocks_do_not(tmp_path: Path) -> None:
    skew_ns = 86_400_000_000_000  # the second machine booted a day earlier
    late = [Span(s.name, s.track, s.start_ns + skew_ns, s.stop_ns + skew_ns, 0) for s in STEP]
    paths = [tmp_path / "rank_0000.json", tmp_path / "rank_0001.json"]
    write_trace(paths[0], STEP, rank=0, origin_ns=ORIGIN)
    write_trace(paths[1], late, rank=1, origin_ns=ORIGIN + skew_ns)
    merge_traces(paths, tmp_path / "merged.json")
    merged = json.loads((tmp_path / "merged.json").read_text())
    check_trace(merged)
    starts = [
        {e["name"]: e["ts"] for e in merged["traceEvents"] if e["ph"] == "X" and e["pid"] == rank}
        for rank in (0, 1)
    ]
    assert starts[0] == starts[1]
    assert len(starts[0]) == len(STEP)


def test_spans_of_a_real_recorder() -> None:
    recorder = SpanRecorder()
    origin_ns = time.perf_counter_ns()
    with recorder.span("step", "host"), recorder.span("matmul", "compute"):
        pass
    events = trace_events(recorder.drain(), rank=0, origin_ns=origin_ns)
    check_trace({"traceEvents": events})
    assert [e["name"] for e in events if e["ph"] == "X"] == ["step", "matmul"]


def test_a_rank_without_spans_still_has_a_valid_trace(tmp_path: Path) -> None:
    path = tmp_path / "rank_0000.json"
    write_trace(path, [], rank=0, origin_ns=0)
    check_trace(json.loads(path.read_text()))


times = st.tuples(st.integers(0, 40), st.integers(0, 20)).map(lambda p: (p[0], p[0] + p[1]))


@given(st.lists(st.tuples(st.sampled_from(["gather", "compute", "odd"]), times), max_size=15))
def test_any_spans_make_a_valid_trace(work: list[tuple[str, tuple[int, int]]]) -> None:
    spans = [span(str(i), track, a, b) for i, (track, (a, b)) in enumerate(work)]
    events = trace_events(spans, rank=0, origin_ns=ORIGIN)
    check_trace({"traceEvents": events})
    found = {e["name"]: (e["cat"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"}
    assert found == {
        str(i): (track, pytest.approx(a), pytest.approx(b - a))
        for i, (track, (a, b)) in enumerate(work)
    }

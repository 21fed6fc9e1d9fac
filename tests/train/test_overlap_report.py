"""Overlap that was decided and does not happen ends the run; figures add up over a run."""

import math
from dataclasses import astuple, replace

import pytest

from ndtrain.core.errors import UserError
from ndtrain.core.spans import Span, SpanRecorder
from ndtrain.observe.overlap_figures import OPERATIONS, STEP, Tally
from ndtrain.overlap.gate import Choice, Decision
from ndtrain.runtime.arrivals import can_count_arrivals
from ndtrain.train import overlap_report
from ndtrain.train.overlap_report import CHECKED_STEPS, OverlapReport, checks_of

RING = Decision((Choice("qkv", "forward", "ring"), Choice("o", "forward", "off")))
BLOCKING = Decision((Choice("qkv", "forward", "off"),))


def row(**tallies: Tally) -> list[float]:
    every = [tallies.get(name, Tally()) for name in (*OPERATIONS, STEP)]
    return [value for tally in every for value in astuple(tally)]


def moving(hidden_bytes: float) -> Tally:
    return Tally(
        compute_ms=20, comm_ms=10, exposed_comm_ms=4, comm_bytes=1e6, hidden_bytes=hidden_bytes
    )


def report(decision: Decision, buckets_must_hide: bool = False) -> OverlapReport:
    return OverlapReport({"qkv": 5_000_000}, checks_of(decision, buckets_must_hide))


def test_nothing_hidden_is_an_error() -> None:
    overlap = report(RING)
    # Bytes of an operation that is not meant to overlap do not count.
    silent = row(qkv=moving(0), o=moving(500))
    for _ in range(CHECKED_STEPS - 1):
        overlap.record(silent)
    with pytest.raises(UserError, match="no byte of qkv moved behind compute in 3 steps"):
        overlap.record(silent)


def test_one_hidden_byte_is_enough_and_later_steps_are_not_judged() -> None:
    overlap = report(RING)
    first = overlap.record(row(qkv=moving(1)))
    assert first["qkv"]["hidden_bytes"] == 1
    for _ in range(2 * CHECKED_STEPS):
        assert overlap.record(row(qkv=moving(0)))["qkv"]["hidden_bytes"] == 0


def test_what_runs_one_node_at_a_time_need_not_hide() -> None:
    serial = Choice("qkv", "forward", "ring", serial=True)
    assert checks_of(Decision((serial,)), buckets_must_hide=False) == []
    assert Decision((serial, *RING.choices)).overlapped == {"qkv"}


COUNTED = 3 * 2**20  # sent in a step: enough to be judged by what arrives


@pytest.mark.parametrize(("arrived", "is_active"), [(0.005, False), (0.02, True)])
def test_transfers_under_way_that_bring_nothing_are_not_active(
    arrived: float, is_active: bool
) -> None:
    (check,) = checks_of(RING, buckets_must_hide=False)
    step = Tally(comm_bytes=COUNTED, arrived_bytes=arrived * COUNTED)
    tallies = dict.fromkeys(OPERATIONS, Tally()) | {"qkv": moving(1000), STEP: step}
    unknown = tallies | {STEP: replace(step, arrived_bytes=math.nan)}
    check.see(unknown)  # nobody counts in the first step
    check.see(tallies)
    if is_active:
        check.see(tallies)
        return
    with pytest.raises(UserError, match="no byte of qkv moved behind compute in 3 steps"):
        check.see(tallies)


def test_arrivals_are_counted_until_it_is_judged() -> None:
    spans = SpanRecorder()
    overlap = OverlapReport({}, checks_of(RING, buckets_must_hide=False), spans)
    counts = []
    for _ in range(CHECKED_STEPS + 1):
        step = [
            Span("layers.0.attention.qkv.product", "compute", 0, 9, 500),
            Span("layers.0.attention.qkv.gather", "gather", 1, 5, 700),
        ]
        figures = overlap.record(overlap.row(step))
        counts.append((figures["qkv"]["arrived_bytes"], spans.arrived is not None))
    on = can_count_arrivals()
    during = 500 if on else None
    assert counts == [(None, on), (during, on), (during, False), (None, False)]
    assert overlap.summary()
    idle = SpanRecorder()
    OverlapReport({}, [], idle).record(row())
    assert idle.arrived is None


def test_whether_the_kernel_counts_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(overlap_report, "can_count_arrivals", lambda: bool(tried.append(1)))
    overlap = OverlapReport({}, checks_of(RING, buckets_must_hide=False), SpanRecorder())
    for _ in range(2 * CHECKED_STEPS):
        overlap.record(row(qkv=moving(1)))
    assert len(tried) == 1


def test_buckets_that_were_asked_to_hide_must() -> None:
    overlap = report(BLOCKING, buckets_must_hide=True)
    for _ in range(CHECKED_STEPS - 1):
        overlap.record(row(gradient_buckets=moving(0)))
    with pytest.raises(UserError, match=r"overlap\.data_parallel"):
        overlap.record(row(gradient_buckets=moving(0)))
    assert checks_of(BLOCKING, buckets_must_hide=False) == []


def test_the_summary_is_the_mean_of_all_steps_but_the_first() -> None:
    overlap = report(RING)
    assert overlap.summary() == []
    slow = Tally(compute_ms=999, comm_ms=999, comm_bytes=1, hidden_bytes=1)
    overlap.record(row(qkv=slow, step=slow))
    for hidden in (1e6, 0):
        overlap.record(row(qkv=moving(hidden), o=moving(0), step=moving(hidden)))
    heading, _, *lines = overlap.summary()
    assert heading == "overlap: active on 1 of 2 operations that move bytes; mean of 2 steps"
    assert [line.split()[0] for line in lines] == ["qkv", "o", STEP]
    assert " ".join(lines[0].split()) == "qkv 20.0 ms 10.0 ms 4.0 ms 60 % - 1.0 MB 5.0 MB"

"""The ring of spans."""

import pytest

from ndtrain.core.spans import SpanRecorder


def test_spans_come_back_in_order_and_once() -> None:
    spans = SpanRecorder()
    with spans.span("outer", track="host"), spans.span("inner", track="gather", num_bytes=8):
        pass
    names = [(span.name, span.track, span.num_bytes) for span in spans.drain()]
    assert names == [("inner", "gather", 8), ("outer", "host", 0)]
    assert spans.drain() == []


def test_a_span_ends_when_its_body_raises() -> None:
    spans = SpanRecorder()
    with pytest.raises(ZeroDivisionError), spans.span("division", track="compute"):
        _ = 1 // 0
    (span,) = spans.drain()
    assert span.start_ns <= span.stop_ns


def test_the_oldest_spans_give_way() -> None:
    spans = SpanRecorder(capacity=2)
    for index in range(3):
        spans.add(str(index), "compute", index, index + 1)
    assert [span.name for span in spans.drain()] == ["1", "2"]


def test_a_disabled_recorder_keeps_nothing() -> None:
    spans = SpanRecorder()
    spans.enabled = False
    spans.add("x", "compute", 0, 1)
    assert spans.drain() == []

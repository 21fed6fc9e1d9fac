"""Neuron profiles, in the form that AWS documents, beside the spans of ranks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ndtrain.core.errors import UserError
from ndtrain.core.spans import Span
from ndtrain.observe.device_trace import add_profiles
from ndtrain.observe.neuron_profile import read_profile
from ndtrain.observe.trace import merge_traces, write_trace
from tests.observe.test_trace import check_trace

HOST = [
    Span("forward", "host", 1_000_000, 3_000_000, 0),
    Span("qkv", "compute", 1_200_000, 2_000_000, 0),
]

# The two examples of the documentation, with times of these tests.
INSTRUCTION = {
    "timestamp": 10_261_883_214,
    "duration": 148,
    "label": "TensorMatrix",
    "hlo_name": "%add.1 = add(%dot, %custom-call.44)",
    "opcode": "MATMUL",
    "operands": "S[5] (Tensor)++@complete acc_flags=3",
}
RUNTIME_CALL = {
    "duration": 27_000,
    "group": "nrt-nc-000",
    "id": 1,
    "instance_id": "i-0f207fb2a99bd2d08",
    "lnc_idx": "0",
    "name": "nrt_tensor_write",
    "process_id": "1627711",
    "timestamp": 0,
}


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    """Two ranks, `forward` at 1 ms; the wall clock at the origin is set to 5e18 ns."""
    ranks = [tmp_path / f"rank_{rank:04d}.json" for rank in (0, 1)]
    for rank, path in enumerate(ranks):
        write_trace(path, HOST, rank, origin_ns=0)
    merged = tmp_path / "merged.json"
    merge_traces(ranks, merged)
    content = json.loads(merged.read_text())
    assert isinstance(content["otherData"]["origin_unix_ns"], int)
    content["otherData"]["origin_unix_ns"] = 5 * 10**18
    merged.write_text(json.dumps(content))
    return merged


def device(folder: Path, *entries: object) -> Path:
    file = folder / "device.json"
    file.write_text(json.dumps({"summary": [{"total_time": 0.017}], "instruction": entries}))
    return file


def system(folder: Path, *entries: object) -> Path:
    file = folder / "system_profile.json"
    file.write_text(json.dumps({"trace_events": entries, "mem_usage": [], "cpu_util": []}))
    return file


def added(trace_file: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Complete events beyond the ranks', by name, and the names of processes and tracks."""
    trace = json.loads(trace_file.read_text())
    check_trace(trace)
    events = [event for event in trace["traceEvents"] if event["pid"] not in (0, 1)]
    names = [e["args"]["name"] for e in events if e["name"] in ("process_name", "thread_name")]
    return {event["name"]: event for event in events if event["ph"] == "X"}, names


def test_a_device_profile_begins_at_the_named_span(tmp_path: Path, trace_file: Path) -> None:
    later = INSTRUCTION | {"timestamp": 10_261_883_314, "opcode": "COPY"}
    other = INSTRUCTION | {"timestamp": 10_261_884_214, "label": "Vector", "opcode": "ADD"}
    host_before = [
        e for e in json.loads(trace_file.read_text())["traceEvents"] if e["pid"] in (0, 1)
    ]
    profile = read_profile(device(tmp_path, later, INSTRUCTION, other))
    assert profile.kind == "device"
    for _ in range(2):  # a second time replaces the first
        add_profiles(trace_file, [profile], align="forward")
    events, names = added(trace_file)
    assert (events["MATMUL"]["ts"], events["MATMUL"]["dur"]) == (1000.0, 0.148)
    assert events["COPY"]["ts"] == pytest.approx(1000.1)
    assert events["ADD"]["ts"] == 1001.0
    assert events["MATMUL"]["args"] == {key: INSTRUCTION[key] for key in ("hlo_name", "operands")}
    expected = ["device.json (device, put at forward)", "TensorMatrix", "TensorMatrix 2", "Vector"]
    assert names == expected
    host_after = [
        e for e in json.loads(trace_file.read_text())["traceEvents"] if e["pid"] in (0, 1)
    ]
    assert host_after == host_before


def test_a_system_profile_is_placed_by_the_wall_clock(tmp_path: Path, trace_file: Path) -> None:
    call = RUNTIME_CALL | {"timestamp": 5 * 10**18 + 1_500_000}
    before = RUNTIME_CALL | {"timestamp": 5 * 10**18 - 2_000_000, "name": "nrt_load"}
    profile = read_profile(system(tmp_path, before, call))
    add_profiles(trace_file, [profile], align=None)
    events, names = added(trace_file)
    assert events["nrt_tensor_write"]["ts"] == 1500.0
    assert events["nrt_load"]["ts"] == -2000.0
    assert names == ["system_profile.json (system)", "nrt-nc-000"]


def test_both_lie_side_by_side(tmp_path: Path, trace_file: Path) -> None:
    call = RUNTIME_CALL | {"timestamp": 5 * 10**18 + 1_500_000}
    profiles = [read_profile(device(tmp_path, INSTRUCTION)), read_profile(system(tmp_path, call))]
    add_profiles(trace_file, profiles, align="qkv")
    events, _ = added(trace_file)
    assert events["MATMUL"]["ts"] == 1200.0
    assert events["MATMUL"]["pid"] != events["nrt_tensor_write"]["pid"]


def without(field: str) -> dict[str, Any]:
    return {key: value for key, value in INSTRUCTION.items() if key != field}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not JSON"),
        ("[]", "not a JSON object"),
        ({"summary": []}, "it has `summary`, not one of `instruction` and `trace_events`"),
        ({"traceEvents": []}, "it has `traceEvents`"),
        ({"instruction": [INSTRUCTION], "trace_events": []}, "it has `instruction`"),
        ({"instruction": {"0": INSTRUCTION}}, "`instruction` is not a list of events"),
        ({"trace_events": []}, "`trace_events` is not a list of events"),
        ({"instruction": [INSTRUCTION, 3]}, "`instruction[1]` is not an object"),
        ({"instruction": [without("timestamp")]}, "`instruction[0]` has no `timestamp`"),
        ({"instruction": [without("duration")]}, "has no `duration`"),
        ({"instruction": [without("label")]}, "has no `label`"),
        ({"instruction": [without("opcode")]}, "has no `opcode`"),
        ({"trace_events": [INSTRUCTION]}, "`trace_events[0]` has no `group`"),
        ({"instruction": [INSTRUCTION | {"duration": -1}]}, "has `duration` -1"),
        ({"instruction": [INSTRUCTION | {"duration": 1.5}]}, "has `duration` 1.5"),
        ({"instruction": [INSTRUCTION | {"timestamp": True}]}, "has `timestamp` True"),
        ({"instruction": [INSTRUCTION | {"label": ""}]}, "has `label` ''"),
    ],
)
def test_other_forms_are_refused_by_name(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "profile.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        read_profile(file)
    assert refusal.value.where == str(file)
    assert refusal.value.help


def test_a_missing_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_profile(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("align", "message", "help_text"),
    [
        (None, "a clock of its own", "--align at which span it begins: forward"),
        ("backward", "no span `backward`", "it has forward"),
    ],
)
def test_the_place_of_a_device_profile_is_not_guessed(
    tmp_path: Path, trace_file: Path, align: str | None, message: str, help_text: str
) -> None:
    before = trace_file.read_bytes()
    with pytest.raises(UserError, match=message) as refusal:
        add_profiles(trace_file, [read_profile(device(tmp_path, INSTRUCTION))], align)
    assert help_text in refusal.value.help
    assert trace_file.read_bytes() == before


def test_a_system_profile_of_another_time_is_refused(tmp_path: Path, trace_file: Path) -> None:
    profile = read_profile(system(tmp_path, RUNTIME_CALL | {"timestamp": 5 * 10**18 + 60 * 10**9}))
    with pytest.raises(UserError, match=re.escape("begins +60.0 s from them")):
        add_profiles(trace_file, [profile], align=None)
    with pytest.raises(UserError, match="--align is for device profiles"):
        add_profiles(trace_file, [profile], align="forward")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the run has no trace"),
        ("{", "not a trace of ndtrain"),
        ('{"traceEvents": [{"ph": "X", "pid": 0}]}', "not a trace of ndtrain"),
        ('{"traceEvents": []}', "the trace has no spans"),
        (
            '{"traceEvents": [{"ph": "X", "pid": 0, "name": "a", "ts": 0, "dur": 1}]}',
            "does not say when it was taken",
        ),
    ],
)
def test_traces_that_cannot_take_a_profile(
    tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "merged.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message) as refusal:
        add_profiles(file, [read_profile(system(tmp_path, RUNTIME_CALL))], align=None)
    assert refusal.value.where == str(file)

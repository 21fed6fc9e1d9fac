"""`ndtrain overlap show` and `verify` as they are typed."""

import json
import sys
from xml.etree import ElementTree

import pytest

from tests.cli.conftest import Run

LAYER = ("quickstart", "parallel.tp=2")
LINK = ("--matmul-tflops", "0.1", "--link-gbps", "1")


def test_show_draws_both_passes_and_labels_them_predicted(run: Run) -> None:
    result = run("overlap", "show", *LAYER, *LINK, "--mode", "ring")
    assert result.code == 0
    assert "predicted" in result.out.splitlines()[0]
    assert "0.1 TFLOP/s, memory 10 GB/s, link 1 Gbit/s one way, latency 50 us" in result.out
    for label in ("forward:", "backward:", "compute |", "gather  |", "scatter |", "exposed |"):
        assert label in result.out
    assert result.out.count(" ring ") == 8
    assert result.out.count(" chunk ") == 1
    assert "head:" in result.out
    assert "buckets:" not in result.out  # of one replica there is nothing to reduce


def test_show_writes_a_picture(run: Run, tmp_path) -> None:
    picture = tmp_path / "layer.svg"
    assert run("overlap", "show", *LAYER, "--hardware", "trn1", "-o", str(picture)).code == 0
    title = ElementTree.parse(picture).getroot().findtext("{http://www.w3.org/2000/svg}title")
    assert "predicted" in title


def test_a_picture_that_cannot_be_written_is_a_mistake_of_the_command(run: Run, tmp_path) -> None:
    result = run("overlap", "show", *LAYER, *LINK, "-o", str(tmp_path / "no" / "layer.svg"))
    assert result.code == 2
    assert "cannot write" in result.err


def test_show_in_json_adds_up(run: Run) -> None:
    found = {}
    for mode in ("off", "auto", "serial"):
        result = run("overlap", "show", *LAYER, *LINK, "--mode", mode, "--json")
        found[mode] = json.loads(result.out)["predicted"]
    for when in ("forward", "backward"):
        off, auto, serial = (found[mode][when] for mode in ("off", "auto", "serial"))
        assert off["makespan_s"] == pytest.approx(off["compute_s"] + off["communication_s"])
        assert off["exposed_s"] == pytest.approx(off["communication_s"])
        assert auto["makespan_s"] < off["makespan_s"]
        assert serial["makespan_s"] == pytest.approx(auto["compute_s"] + auto["communication_s"])
        assert auto["efficiency"] > 0.3
        assert sum(part["makespan_s"] for part in auto["parts"]) == pytest.approx(
            auto["makespan_s"]
        )


def test_figures_of_the_command_line_stand_above_the_table(run: Run) -> None:
    def figures(*options: str) -> dict:
        return json.loads(run("overlap", "show", *LAYER, *options, "--json").out)["figures"]

    table = figures("--hardware", "trn1")
    assert table["matmul_flops"] == 23.75e12  # fp32
    assert table["issues_ahead"] is True
    ours = figures("--hardware", "trn1", "--link-gbps", "8", "--latency-us", "5")
    assert ours == table | {"link_bytes_per_s": 1e9, "link_latency_s": pytest.approx(5e-6)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "a prediction needs a machine"),
        (("--matmul-tflops", "1"), "a prediction needs a machine"),
        (("--hardware", "trn9"), "there is no device `trn9`"),
        (("--hardwear", "trn1"), "hardwear"),
        ((*LINK, "overlap.mode=fast"), "overlap.mode"),
        ((*LINK, "--mode", "fast"), "fast"),
    ],
)
def test_what_cannot_be_shown_is_refused(run: Run, options, message) -> None:
    result = run("overlap", "show", *LAYER, *options)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_verify_proves_every_form(run: Run) -> None:
    grid = ("parallel.dp=auto", "train.global_batch_size=8", "--world-size", "4")
    result = run("overlap", "verify", *LAYER, *grid)
    assert result.code == 0
    assert result.out.count("ok ") == 5 * 4 * 2 + 2 + 2  # five forms of four linears
    assert "44 schedules on 2 tensor x 2 data ranks" in result.out
    for form in ("off    head", "chunk  head", "off    buckets", "bulk   buckets"):
        assert form in result.out


def test_buckets_are_drawn_behind_backward_and_update(run: Run) -> None:
    def buckets(*overrides: str) -> dict:
        two = ("quickstart", "parallel.tp=1", "parallel.dp=2", "train.global_batch_size=8")
        shown = run(
            "overlap", "show", *two, *LINK, "overlap.bucket_megabytes=2", *overrides, "--json"
        )
        return json.loads(shown.out)["predicted"]["buckets"]

    hidden, blocking = buckets(), buckets("overlap.data_parallel=off")
    assert hidden["parts"][0]["mode"] == "bulk"
    assert hidden["communication_s"] == pytest.approx(blocking["communication_s"])
    assert hidden["compute_s"] == pytest.approx(blocking["compute_s"])
    assert hidden["makespan_s"] < blocking["makespan_s"]
    assert blocking["exposed_s"] == pytest.approx(blocking["communication_s"])
    spans = {span["name"].removeprefix("buckets."): span for span in hidden["spans"]}
    last = max(int(name.split("_")[1]) for name in spans if name.startswith("gather"))
    assert spans[f"gather_{last}"]["start_s"] < spans[f"update_{last - 1}"]["stop_s"]


def test_verify_exits_with_3_and_the_problems(run: Run, monkeypatch) -> None:
    monkeypatch.setattr("ndtrain.parallel.layer_schedules.verify", lambda of, size: ["a race"])
    result = run("overlap", "verify", *LAYER, "--mode", "ring")
    assert result.code == 3
    assert "a race" in result.out
    listed = run("overlap", "verify", *LAYER, "--mode", "ring", "--json")
    assert listed.code == 3
    found = json.loads(listed.out)
    assert found["ok"] is False
    assert found["schedules"][0] == {
        "mode": "ring",
        "operation": "qkv",
        "pass": "forward",
        "problems": ["a race"],
    }


def test_verify_refuses_a_world_that_does_not_fit(run: Run) -> None:
    result = run("overlap", "verify", *LAYER, "--world-size", "3")
    assert result.code == 2
    assert "world size 3" in result.err


def test_graphs_of_one_rank_have_nothing_to_compare(run: Run) -> None:
    result = run("overlap", "verify", "quickstart", "parallel.tp=1", "--hlo")
    assert result.code == 2
    assert "on one rank nothing is communicated" in result.err


def test_graphs_without_torch_xla_are_refused(run: Run, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_xla", None)
    result = run("overlap", "verify", *LAYER, "--mode", "ring", "--hlo")
    assert result.code == 2
    assert "torch-xla cannot be imported" in result.err

"""The verdict: who is to blame, from reports as nodes write them."""

import json
from pathlib import Path

import pytest

from ndtrain.cluster.finding import Finding
from ndtrain.cluster.judge import Verdict, blame, judge
from ndtrain.cluster.meeting import View
from ndtrain.cluster.preflight import NodeReport
from ndtrain.hardware.instances import find_instance

NODES = ("a", "b", "c", "d")


def reports(**changed: NodeReport) -> dict[str, NodeReport]:
    """Of four nodes that are well, but for those given."""
    found = {}
    for name in NODES:
        views = {other: View("", 0.001) for other in NODES if other != name}
        found[name] = NodeReport(name, [version("1.0")], [], views, receives_gbits=9.0)
    return found | changed


def version(number: str) -> Finding:
    return Finding("ok", "versions", f"torch {number}")


def verdict(folder: Path, found: dict[str, NodeReport], arrived: str = "abcd") -> Verdict:
    for name in arrived:
        (folder / f"{name}.arrived.json").write_text("{}")
    for report in found.values():
        report.write(folder)
    return judge(NODES, folder)


def failures(judged: Verdict) -> dict[str, list[str]]:
    return {
        name: [finding.name for finding in found if finding.state == "fail"]
        for name, found in judged.findings.items()
        if any(finding.state == "fail" for finding in found)
    }


def test_all_is_well(tmp_path: Path) -> None:
    judged = verdict(tmp_path, reports())
    assert judged.is_good
    assert judged.bad_nodes == ()
    assert judged.findings["b"][-1].detail == "receives 9.00 Gbit/s from a over TCP"


def cut(found: dict[str, NodeReport], *pairs: str) -> dict[str, NodeReport]:
    for one, other in pairs:
        found[one].views[other] = View("timed out")
    return found


@pytest.mark.parametrize(
    ("pairs", "blamed"),
    [
        (["cb", "bc", "ca", "ac", "cd", "dc"], ["c"]),  # alone
        (["ab", "ba", "ac", "ca", "ad", "da"], ["a"]),  # the first one itself
        (["ab", "ba"], ["b"]),  # one connection: not the first, where all meet
        (["bc"], ["c"]),  # one direction
        (["ab", "ba", "cd", "dc"], ["d", "b"]),  # two that have nothing to do with each other
        ([], []),
    ],
)
def test_blame(pairs: list[str], blamed: list[str], tmp_path: Path) -> None:
    assert blame(NODES, [(one, other) for one, other in pairs]) == blamed
    judged = verdict(tmp_path, cut(reports(), *pairs))
    assert set(judged.bad_nodes) == set(blamed)
    assert all("timed out" in judged.findings[name][-2].detail for name in blamed)


def test_of_two_nodes_the_one_that_does_not_reach_the_meeting_point() -> None:
    assert blame(("a", "b"), [("a", "b"), ("b", "a")]) == ["b"]


def test_a_node_that_did_not_start(tmp_path: Path) -> None:
    found = reports()
    del found["b"]
    found["c"].unseen = ["b"]
    judged = verdict(tmp_path, found, arrived="acd")
    assert failures(judged) == {"b": ["report"]}
    assert judged.bad_nodes == ("b",)


def test_srun_ended_the_others_when_one_did_not_start(tmp_path: Path) -> None:
    judged = verdict(tmp_path, {}, arrived="acd")
    assert judged.bad_nodes == ("b",)
    assert judged.findings["a"][0].detail == "it was ended while it waited for b"


def test_a_node_that_did_not_end(tmp_path: Path) -> None:
    found = reports()
    del found["d"]
    assert failures(verdict(tmp_path, found)) == {"d": ["report"]}


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    found = reports()
    found["c"].unseen = ["a", "b", "d"]
    judged = verdict(tmp_path, found)
    assert judged.bad_nodes == ("c",)
    assert judged.findings["c"][-2].detail == "it does not see a, b, d"


@pytest.mark.parametrize("kind", ["versions", "driver", "neuron packages"])
def test_other_software_than_the_others(kind: str, tmp_path: Path) -> None:
    found = reports()
    for name, report in found.items():
        report.findings = [Finding("ok", kind, "2.0" if name == "d" else "1.0")]
    judged = verdict(tmp_path, found)
    assert failures(judged) == {"d": [f"same {kind}"]}
    assert judged.findings["d"][1].help == "the others have 1.0"


@pytest.mark.parametrize(("ahead_s", "state"), [(-90.0, "fail"), (3.0, "warn"), (0.5, None)])
def test_a_clock_that_is_wrong(tmp_path: Path, ahead_s: float, state: str | None) -> None:
    found = reports()
    for name in "abd":
        found[name].views["c"] = View("", ahead_s)
        found["c"].views[name] = View("", -ahead_s)
    judged = verdict(tmp_path, found)
    clocks = {
        name: finding.state
        for name, listed in judged.findings.items()
        for finding in listed
        if finding.name == "clock"
    }
    assert clocks == ({"c": state} if state else {})


def test_a_slow_link_is_named_and_does_not_end_the_job(tmp_path: Path) -> None:
    found = reports()
    found["c"].receives_gbits = 1.0
    judged = verdict(tmp_path, found)
    (slow,) = [f for f in judged.findings["c"] if f.state == "warn"]
    assert slow.detail == "receives 1.00 Gbit/s from b over TCP"
    assert "look at this link of b and c" in slow.help
    assert judged.is_good


def test_a_link_far_below_what_it_should_give_is_named_though_all_are_as_slow(
    tmp_path: Path,
) -> None:
    found = reports()
    for report in found.values():
        report.receives_gbits = 1.2
        report.write(tmp_path)
    assert all(listed[-1].state == "ok" for listed in judge(NODES, tmp_path).findings.values())
    judged = judge(NODES, tmp_path, find_instance("trn1.32xlarge"))
    for listed in judged.findings.values():
        assert listed[-1].state == "warn"
        assert listed[-1].detail.endswith(" over TCP, where 10 are possible")
        assert "in one placement group?" in listed[-1].help


def test_a_collective_that_did_not_end_is_a_warning_and_one_that_failed_is_not(
    tmp_path: Path,
) -> None:
    found = reports()
    for report in found.values():
        report.receives_gbits = None
    found["d"].findings.append(Finding("fail", "collective", "connection reset"))
    judged = verdict(tmp_path, found)
    assert failures(judged) == {"d": ["collective"]}
    assert judged.findings["a"][-1].detail == "it did not come to its end in time"
    # Where not all were reached, nobody tried.
    assert not [f for f in verdict(tmp_path, cut(found, "ab", "ba")).findings["a"]
                if f.name == "collective"]  # fmt: skip


def test_what_fails_everywhere_is_no_nodes_fault(tmp_path: Path) -> None:
    found = reports()
    for report in found.values():
        report.findings.append(Finding("fail", "driver", "none"))
    judged = verdict(tmp_path, found)
    assert not judged.is_good
    assert judged.bad_nodes == ()
    found["b"].findings.append(Finding("fail", "efa", "7 of 8 devices"))
    assert verdict(tmp_path, found).bad_nodes == ("b",)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = NodeReport("a", [version("1")], ["b"], {"c": View("no", 1.5)}, 2.5)
    report.write(tmp_path)
    assert NodeReport.read(tmp_path / "a.report.json") == report
    assert json.loads((tmp_path / "a.report.json").read_bytes())["name"] == "a"

"""The verdict over the reports of all nodes: what is wrong, and whose fault it is.

    verdict = judge(("node1", "node2", "node3"), folder, find_instance("trn1.32xlarge"))
    verdict.findings["node2"], verdict.bad_nodes, verdict.is_good

A connection has two ends. The node at the end of most broken ones is to blame, of several the one
that is not the first, where all have to meet. What fails on all nodes is no node's fault.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ndtrain.cluster.finding import Finding
from ndtrain.cluster.preflight import NodeReport
from ndtrain.hardware.instances import CPU, GIGABIT, Instance

_SKEW_WARN_S, _SKEW_FAIL_S = 1.0, 60.0  # munge refuses at 300 s
_SAME_EVERYWHERE = ("versions", "driver", "neuron packages")
_SLOW = 4.0  # times slower than the median of the nodes, or than such nodes should be


@dataclass(frozen=True)
class Verdict:
    findings: dict[str, list[Finding]]
    bad_nodes: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        return not any(f.state == "fail" for found in self.findings.values() for f in found)


def judge(nodes: tuple[str, ...], folder: Path, instance: Instance = CPU) -> Verdict:
    files = {name: folder / f"{name}.report.json" for name in nodes}
    reports = {name: NodeReport.read(file) for name, file in files.items() if file.exists()}
    findings: dict[str, list[Finding]] = {
        name: list(reports[name].findings) if name in reports else [_silent(name, nodes, folder)]
        for name in nodes
    }
    for found in (
        _versions(reports),
        _network(nodes, reports),
        _folder(reports),
        _clocks(nodes, reports),
        _rates(nodes, reports, instance.tcp_bandwidth / GIGABIT),
    ):
        for name, finding in found.items():
            findings[name].append(finding)
    return Verdict(findings, _bad(findings))


def _silent(name: str, nodes: tuple[str, ...], folder: Path) -> Finding:
    absent = [other for other in nodes if not (folder / f"{other}.arrived.json").exists()]
    if name in absent:
        help_text = (
            "is slurmd running there, is this folder mounted there, does it reach the others?"
        )
        return Finding("fail", "report", f"nothing of it is in {folder}", help_text)
    if absent:
        # srun ends what it has started when it cannot start the rest.
        return Finding("warn", "report", f"it was ended while it waited for {', '.join(absent)}")
    return Finding("fail", "report", "it began and did not end", f"the log of {name}")


def _versions(reports: Mapping[str, NodeReport]) -> dict[str, Finding]:
    """Nodes whose software is not that of most."""
    found: dict[str, Finding] = {}
    for kind in _SAME_EVERYWHERE:
        texts = {
            name: finding.detail
            for name, report in reports.items()
            for finding in report.findings
            if (finding.name, finding.state) == (kind, "ok")
        }
        if len(set(texts.values())) < 2:
            continue
        (usual, _), *_ = Counter(texts.values()).most_common(1)
        for name, text in texts.items():
            if text != usual:
                help_text = f"the others have {usual}"
                found[name] = Finding("fail", f"same {kind}", text, help_text)
    return found


def _network(nodes: tuple[str, ...], reports: Mapping[str, NodeReport]) -> dict[str, Finding]:
    broken = {
        (name, other): view.error
        for name, report in reports.items()
        for other, view in report.views.items()
        if view.error
    }
    help_text = "routes, firewalls and security groups: nodes of a job use all ports"
    found = {}
    for name in blame(nodes, list(broken)):
        whom = [
            f"it does not reach {other} ({error})"
            if name == one
            else f"{one} does not reach it ({error})"
            for (one, other), error in broken.items()
            if name in (one, other)
        ]
        found[name] = Finding("fail", "network", "; ".join(whom), help_text)
    return found


def blame(nodes: tuple[str, ...], broken: list[tuple[str, str]]) -> list[str]:
    """Nodes that explain all broken pairs: the one in most of them, again and again."""
    left, blamed = list(broken), []
    while left:
        count = Counter(name for pair in left for name in pair)
        # Of equals the last: the first node is where all meet.
        worst = max(nodes, key=lambda name: (count[name], nodes.index(name)))
        blamed.append(worst)
        left = [pair for pair in left if worst not in pair]
    return blamed


def _folder(reports: Mapping[str, NodeReport]) -> dict[str, Finding]:
    """A node that has reported was seen by the judge; who does not see it looks elsewhere."""
    help_text = "the run directory has to be on a file system that all nodes share"
    return {
        name: Finding("fail", "shared folder", f"it does not see {', '.join(blind)}", help_text)
        for name, report in reports.items()
        if (blind := [other for other in report.unseen if other in reports])
    }


def _clocks(nodes: tuple[str, ...], reports: Mapping[str, NodeReport]) -> dict[str, Finding]:
    found = {}
    for name in nodes:
        seen = [
            report.views[name].ahead_s
            for report in reports.values()
            if name in report.views and not report.views[name].error
        ]
        skew = median(seen) if seen else 0.0
        # Of two nodes nobody knows which is right: the first counts.
        if abs(skew) < _SKEW_WARN_S or (len(nodes) == 2 and name == nodes[0]):
            continue
        what = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the others"
        help_text = "start chrony or systemd-timesyncd there"
        is_failure = abs(skew) >= _SKEW_FAIL_S
        found[name] = Finding("fail" if is_failure else "warn", "clock", what, help_text)
    return found


def _rates(
    nodes: tuple[str, ...], reports: Mapping[str, NodeReport], possible: float
) -> dict[str, Finding]:
    """possible: Gbit/s that a connection between such nodes gets; 0 where nobody knows."""
    rates = {
        name: report.receives_gbits
        for name, report in reports.items()
        if report.receives_gbits is not None
    }
    found = {name: _late(report) for name, report in reports.items() if _is_late(report, nodes)}
    usual = median(rates.values()) if rates else 0.0
    for name, rate in rates.items():
        before = nodes[nodes.index(name) - 1]
        what = f"receives {rate:.2f} Gbit/s from {before} over TCP"
        what += f", where {possible:.0f} are possible" if possible else ""
        link = f"look at this link of {before} and {name}"
        if rate < usual / _SLOW:
            found[name] = Finding("warn", "collective", what, f"the median is {usual:.2f}: {link}")
        elif rate < possible / _SLOW:
            help_text = f"are they in one placement group? {link}"
            found[name] = Finding("warn", "collective", what, help_text)
        else:
            found[name] = Finding("ok", "collective", what)
    return found


def _is_late(report: NodeReport, nodes: tuple[str, ...]) -> bool:
    """It reached all others, and neither a rate nor an error has come of the collective."""
    has_ended = report.receives_gbits is not None or any(
        finding.name == "collective" for finding in report.findings
    )
    reached = [view for view in report.views.values() if not view.error]
    return not has_ended and len(reached) == len(nodes) - 1 > 0


def _late(report: NodeReport) -> Finding:
    what = "it did not come to its end in time"
    return Finding("warn", "collective", what, f"is {report.name} busy with something else?")


def _bad(findings: Mapping[str, list[Finding]]) -> tuple[str, ...]:
    """Nodes with something that another could do better."""
    failures = Counter(
        name for found in findings.values() for name in {f.name for f in found if f.state == "fail"}
    )
    return tuple(
        node
        for node, found in findings.items()
        if any(f.state == "fail" and failures[f.name] < len(findings) for f in found)
    )

"""The examination of a cluster: every node examines itself and meets the others, then a verdict.

    examine(Node("node2", ("node1", "node2"), folder, instance, port=29400))     # on every node
    verdict = judge(("node1", "node2"), folder)                      # on one, afterwards
    verdict.bad_nodes                                                # ("node2",)

`judge.py` has the verdict. Everything has a limit, and together they stay below a minute: arrival
20 s, connections 5 s, the collective 15 s.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ndtrain.cluster.finding import Finding
from ndtrain.cluster.meeting import CONNECT_S, Door, View, arrive, reach, wait_for
from ndtrain.cluster.node_checks import examine_node
from ndtrain.core.atomic import write_json
from ndtrain.hardware.instances import Instance

_LINGER_S = 5.0  # for nodes that came late, after one's own part


@dataclass(frozen=True)
class Node:
    """One node's part. name: as SLURM knows it and the others resolve it; nodes: all of them."""

    name: str
    nodes: tuple[str, ...]
    folder: Path
    instance: Instance
    port: int

    @property
    def is_head(self) -> bool:
        """Whether all meet here."""
        return self.name == self.nodes[0]

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(name for name in self.nodes if name != self.name)


@dataclass
class NodeReport:
    """What a node writes for the verdict. unseen: whose arrival it did not see in the folder."""

    name: str
    findings: list[Finding]
    unseen: list[str] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    receives_gbits: float | None = None

    def write(self, folder: Path) -> None:
        write_json(folder / f"{self.name}.report.json", asdict(self))

    @classmethod
    def read(cls, file: Path) -> "NodeReport":
        value = json.loads(file.read_bytes())
        value["findings"] = [Finding(*finding) for finding in value["findings"]]
        value["views"] = {name: View(**view) for name, view in value["views"].items()}
        return cls(**value)


def examine(node: Node) -> NodeReport:
    """Examines this node and writes its report. Raises OSError where the folder is not writable."""
    with Door() as door:
        ports = arrive(node.folder, node.name, node.nodes, door.port)
        own = examine_node(node.instance, len(node.nodes) > 1, node.is_head, node.port)
        report = NodeReport(node.name, own)
        report.unseen = [name for name in node.others if name not in ports]
        report.views = reach({name: ports[name] for name in node.others if name in ports})
        is_whole = not report.unseen and not any(view.error for view in report.views.values())
        write_json(node.folder / f"{node.name}.reached.json", {"all": is_whole})
        # Already now: a busy node may take long to load torch, and whoever waits has a limit.
        report.write(node.folder)
        if node.others:
            _communicate(node, report)
            report.write(node.folder)
        wait_for(node.folder, node.nodes, "report", _LINGER_S)
    return report


def _communicate(node: Node, report: NodeReport) -> None:
    """Only where all reach all: otherwise it would hang, and says nothing new."""
    reached = wait_for(node.folder, node.nodes, "reached", 2 * CONNECT_S)
    if len(reached) < len(node.nodes) or not all(value["all"] for _, value in reached):
        return
    from ndtrain.cluster.collective import ring_rate

    rank = node.nodes.index(node.name)
    try:
        report.receives_gbits = ring_rate(node.nodes[0], node.port, rank, len(node.nodes))
    except (OSError, RuntimeError, ValueError) as error:
        what = str(error).partition("\n")[0]
        help_text = "GLOO_SOCKET_IFNAME names the interface; security groups must allow all ports"
        report.findings.append(Finding("fail", "collective", what, help_text))

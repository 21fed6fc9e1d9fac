"""`ndtrain doctor --cluster`: the options, and the report over all nodes."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ndtrain.cli import terminal
from ndtrain.core.errors import UserError

if TYPE_CHECKING:
    from ndtrain.cluster.judge import Verdict
    from ndtrain.hardware.instances import Instance

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_OPTIONS = (
    click.option("--cluster", is_flag=True, help="Examine the nodes of a cluster instead."),
    click.option("--nodes", help="Their names with commas, the first is where all meet."),
    click.option("--node", help="Name of this one; default: as SLURM or the host says."),
    click.option("--folder", type=click.Path(path_type=Path), help="One that all nodes share."),
    click.option("--hardware", default="cpu", help="What a node is, e.g. trn1.32xlarge."),
    click.option("--port", type=click.IntRange(1024, 65535), default=29400, help="Where all meet."),
    click.option("--verdict", is_flag=True, help="Judge what the nodes have reported."),
)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def examine_cluster(
    *,
    nodes: str | None,
    node: str | None,
    folder: Path | None,
    hardware: str,
    port: int,
    verdict: bool,
    as_json: bool,
) -> int:
    """With one node at once; with several on each of them, and then `--verdict` on one."""
    from ndtrain.cluster.preflight import Node, examine
    from ndtrain.hardware.instances import find_instance

    instance = find_instance(hardware)
    own = node or os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    names = tuple(nodes.split(",")) if nodes else (own,)
    if folder is None and len(names) > 1:
        _refuse("--nodes without --folder", "name a folder on the file system that the nodes share")
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="ndtrain-doctor-") as scratch:
            examine(Node(own, names, Path(scratch), instance, port))
            return _report(names, Path(scratch), instance, as_json)
    if verdict:
        return _report(names, folder, instance, as_json)
    if own not in names:
        _refuse(f"this node is {own}, which is not in --nodes", "--node says which of them it is")
    try:
        report = examine(Node(own, names, folder, instance, port))
    except OSError as error:
        raise UserError(
            f"{own} cannot write to the folder: {error.strerror}",
            str(folder),
            "the run directory has to be on a file system that all nodes share",
        ) from None
    for finding in report.findings:
        click.echo(f"{finding.state:<4}  {own}  {finding.name}  {finding.detail}")
    return 1 if any(finding.state == "fail" for finding in report.findings) else 0


def _report(nodes: tuple[str, ...], folder: Path, instance: Instance, as_json: bool) -> int:
    """Prints the verdict and writes the names of bad nodes, one a line, to FOLDER/bad_nodes."""
    from ndtrain.cluster.judge import judge

    verdict = judge(nodes, folder, instance)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bad_nodes").write_text("".join(f"{name}\n" for name in verdict.bad_nodes))
    if as_json:
        listed = {
            name: [finding._asdict() for finding in found]
            for name, found in verdict.findings.items()
        }
        terminal.print_json({"nodes": listed, "bad_nodes": list(verdict.bad_nodes)})
    else:
        _print(verdict, is_short=len(nodes) > 1)
    return 0 if verdict.is_good else 1


def _print(verdict: Verdict, is_short: bool) -> None:
    """Of several nodes only what is not right, and that a node is."""
    for name, found in verdict.findings.items():
        shown = [finding for finding in found if not is_short or finding.state != "ok"]
        if not shown:
            last = found[-1] if found[-1].name == "collective" else None
            click.echo(f"{_painted('ok')}  {name}" + (f"  {last.detail}" if last else ""))
        for finding in shown:
            click.echo(f"{_painted(finding.state)}  {name}  {finding.name}: {finding.detail}")
            if finding.help:
                click.echo(f"      help: {finding.help}")
    if verdict.bad_nodes:
        click.echo(f"bad nodes: {', '.join(verdict.bad_nodes)}")


def _painted(state: str) -> str:
    return terminal.paint(f"{state:<4}", COLOURS[state], sys.stdout)


def _refuse(what: str, help_text: str) -> None:
    raise UserError(what, "the command line", help_text)

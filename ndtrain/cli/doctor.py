"""`ndtrain doctor`: examine this machine and installation, and say what helps."""

import sys
from pathlib import Path
from typing import Any

import click

from ndtrain.cli import terminal
from ndtrain.cli.cluster_doctor import COLOURS, cluster_options, examine_cluster
from ndtrain.cli.doctor_bundle import bundle_options, make_bundle
from ndtrain.core.errors import UserError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@bundle_options
@cluster_options
def doctor(
    as_json: bool, bundle: Path | None, output: Path | None, cluster: bool, **options: Any
) -> int:
    """Examine this machine and installation.

    Exit code 0 unless a line says fail; a warning is about something that training on a CPU does
    not need.

    With --cluster it examines the nodes of a cluster: on each of them

      ndtrain doctor --cluster --nodes node1,node2 --folder SHARED

    within 20 s, then the same with --verdict on one.
    """
    if output is not None and bundle is None:
        raise UserError("-o without --bundle", "the command line", "--bundle RUN says of what")
    if cluster:
        return examine_cluster(as_json=as_json, **options)
    from ndtrain.cli.examinations import examine

    findings = examine()
    if bundle is not None:
        return make_bundle(bundle, output, findings)
    if as_json:
        terminal.print_json([finding._asdict() for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            state = terminal.paint(f"{finding.state:<4}", COLOURS[finding.state], sys.stdout)
            click.echo(f"{state}  {finding.name:<{width}}  {finding.detail}")
            if finding.help:
                click.echo(f"      {'':<{width}}  help: {finding.help}")
    return 1 if any(finding.state == "fail" for finding in findings) else 0

"""`ndtrain doctor`: examine this machine and installation, and say what helps."""

import sys

import click

from ndtrain.cli import terminal

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> int:
    """Examine this machine and installation.

    Exit code 0 unless a line says fail; a warning is about something that training on a CPU does
    not need.
    """
    from ndtrain.cli.examinations import examine

    findings = examine()
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

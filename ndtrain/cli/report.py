"""`ndtrain report RUN`: a run as one HTML file."""

from pathlib import Path

import click

from ndtrain.core.errors import UserError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write it; by default RUN/report.html.",
)
def report(run: Path, output: Path | None) -> None:
    """Write a run as one HTML file.

    Loss, throughput, time, memory, plan, events and configuration. RUN is a run directory, such as
    runs/quickstart; the run may be training. The file needs nothing else to be read or sent.
    """
    from ndtrain.core.atomic import write_text
    from ndtrain.observe.report.page import render
    from ndtrain.observe.report.run_files import read_run

    files = read_run(run)
    destination = output or run / "report.html"
    try:
        write_text(destination, render(files))
    except OSError as error:
        raise UserError(
            f"cannot write the report: {error.strerror}", str(destination), "choose another with -o"
        ) from None
    for problem in files.problems:
        click.echo(f"warning: {problem}", err=True)
    click.echo(f"wrote {destination}")

"""`ndtrain trace RUN --neuron-profile FILE`: what the device did beside what the host did."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--neuron-profile",
    "files",
    metavar="FILE",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="JSON of `neuron-profile view --output-format json`; may be given several times.",
)
@click.option(
    "--align",
    metavar="SPAN",
    help="Span of the trace at which a device profile begins: it has a clock of its own.",
)
def trace(run: Path, files: tuple[Path, ...], align: str | None) -> None:
    """Put Neuron profiles into a run's trace.

    They become tracks of RUN/trace/merged.json (ui.perfetto.dev), in place of those that were put
    there before. The form of the profiles was taken from AWS's documentation; no file from
    hardware was ever read, so what differs from it is refused by name.
    """
    from ndtrain.observe.device_trace import add_profiles
    from ndtrain.observe.neuron_profile import read_profile
    from ndtrain.observe.run_directory import RunDirectory

    trace_file = RunDirectory(run).merged_trace_file
    add_profiles(trace_file, [read_profile(file) for file in files], align)
    click.echo(f"wrote {trace_file}")

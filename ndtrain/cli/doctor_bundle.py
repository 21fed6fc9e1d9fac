"""`ndtrain doctor --bundle RUN`: what a report of a bug needs, redacted, as one archive."""

from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ndtrain.core.errors import UserError

if TYPE_CHECKING:
    from ndtrain.cli.examinations import Finding


def bundle_options(command: Callable[..., Any]) -> Callable[..., Any]:
    output = click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        help="With --bundle: where to write it; by default NAME-bundle.tar.gz here.",
    )
    run = click.option(
        "--bundle",
        type=click.Path(path_type=Path),
        metavar="RUN",
        help="Pack what a bug report needs of a run: redacted, without weights and data.",
    )
    return run(output(command))


def make_bundle(run: Path, output: Path | None, findings: "list[Finding]") -> int:
    """Writes the archive and says what is in it and what is not."""
    from ndtrain.observe.bundle import redactor_for, write_bundle

    destination = output or Path(f"{run.resolve().name}-bundle.tar.gz")
    doctor = [f"{f.state:<4}  {f.name}  {f.detail}  {f.help}".rstrip() for f in findings]
    more = {"doctor.txt": _lines(doctor), "packages.txt": _lines(_packages())}
    try:
        contents = write_bundle(run, destination, more, redactor_for(run))
    except OSError as error:
        where = error.filename or destination
        raise UserError(f"cannot make the bundle: {error.strerror}", str(where)) from None
    for name, size in contents.packed:
        click.echo(f"packed    {size:>9,} bytes  {name}")
    for name, why in contents.left_out:
        click.echo(f"left out  {name}: {why}")
    click.echo(f"wrote {destination} ({destination.stat().st_size:,} bytes)")
    click.echo(
        "Names of users, machines and paths, addresses and keys are replaced. Look through it"
        " before you send it: free text can say what no rule knows."
    )
    return 0


def _packages() -> list[str]:
    found = {(d.metadata["Name"] or "?", d.version) for d in metadata.distributions()}
    return [f"{name}=={version}" for name, version in sorted(found)]


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)

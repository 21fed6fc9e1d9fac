"""`ndtrain checkpoint ls|verify|prune RUN`: the checkpoints of a run directory."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ndtrain.cli import terminal
from ndtrain.core.errors import Unhealthy, UserError, UserErrors

if TYPE_CHECKING:
    from ndtrain.checkpoint.format import Manifest

RUN = click.argument("run", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def checkpoint() -> None:
    """List, verify and prune checkpoints.

    RUN is a run directory, such as runs/quickstart; `verify` takes one checkpoint too.
    """


@checkpoint.command("ls")
@RUN
@JSON
def list_(run: Path, as_json: bool) -> None:
    """List checkpoints, oldest first, torn ones too.

    Complete means: the manifest is whole and every file has its size. `verify` reads the files.
    """
    from ndtrain.checkpoint.format import Manifest

    rows = []
    for folder in _folders(run):
        try:
            rows.append(_row(folder, Manifest.load(folder)))
        except UserError as error:
            rows.append({"checkpoint": str(folder), "complete": False, "problem": error.what})
    if as_json:
        terminal.print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['checkpoint']}  {row.get('problem') or _summary(row)}")
    if not rows:
        click.echo(f"{run} has no checkpoint")


@checkpoint.command()
@RUN
@JSON
def verify(run: Path, as_json: bool) -> int:
    """Compare every file with its hash; exit code 3 if one differs.

    The hashes find damage. They do not prove who wrote the files.
    """
    found = {folder: _problems(folder) for folder in _folders(run)}
    if as_json:
        rows = [
            {"checkpoint": str(folder), "sound": not errors, "problems": [e.what for e in errors]}
            for folder, errors in found.items()
        ]
        terminal.print_json(rows)
    else:
        for folder, errors in found.items():
            if not errors:
                click.echo(f"sound  {folder}")
            for error in errors:
                terminal.print_error(str(error))
        if not found:
            click.echo(f"{run} has no checkpoint")
    return Unhealthy.exit_code if any(found.values()) else 0


@checkpoint.command()
@RUN
@click.option(
    "--keep-last",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Complete checkpoints to keep.",
)
def prune(run: Path, keep_last: int) -> int:
    """Delete all but the newest complete checkpoints.

    Nothing is deleted unless one of those that stay is sound, file by file.
    """
    from ndtrain.checkpoint.retention import prune as prune_run

    if not (run / "checkpoints").is_dir():
        raise UserError("not a run directory", str(run), "give a folder that has checkpoints/")
    pruned = prune_run(run, keep_last)
    for folder in pruned.deleted:
        click.echo(f"deleted {folder}")
    for folder in pruned.damaged:
        what = "damaged, so it does not count as a checkpoint that stays"
        terminal.print_error(str(UserError(what, str(folder), "see `ndtrain checkpoint verify`")))
    if not pruned.deleted and not pruned.damaged:
        click.echo("nothing to delete")
    return Unhealthy.exit_code if pruned.damaged else 0


def _folders(run: Path) -> list[Path]:
    from ndtrain.checkpoint.format import MANIFEST
    from ndtrain.checkpoint.source import CHECKPOINTS, step_folders

    if (run / CHECKPOINTS).is_dir():
        return step_folders(run)
    if (run / MANIFEST).is_file():
        return [run]
    raise UserError(
        "neither a run directory nor a checkpoint", str(run), "give runs/NAME or a step folder"
    )


def _row(folder: Path, manifest: "Manifest") -> dict[str, object]:
    from ndtrain.checkpoint.format import TRAINING

    return {
        "checkpoint": str(folder),
        "complete": True,
        "step": manifest.step,
        "parameters": manifest.shape.num_parameters(),
        "dtype": manifest.dtype,
        "bytes": sum(entry.num_bytes for entry in manifest.files),
        "resumable": any(entry.name == TRAINING for entry in manifest.files),
    }


def _summary(row: dict[str, object]) -> str:
    kind = "weights and optimizer" if row["resumable"] else "weights"
    size = int(str(row["bytes"])) / 1e6
    return f"{row['parameters']:,} parameters in {row['dtype']}, {kind}, {size:,.1f} MB"


def _problems(folder: Path) -> list[UserError]:
    from ndtrain.checkpoint.reader import Checkpoint

    try:
        Checkpoint(folder).verify()
    except UserErrors as several:
        return several.errors
    except UserError as error:
        return [error]
    return []

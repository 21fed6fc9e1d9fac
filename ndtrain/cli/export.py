"""`ndtrain export CHECKPOINT DEST`: a checkpoint becomes a Hugging Face folder."""

from pathlib import Path

import click


@click.command()
@click.argument("source", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
def export(source: Path, destination: Path) -> None:
    """Checkpoint to Hugging Face folder.

    CHECKPOINT is a checkpoint, or a run directory for its newest one.
    transformers loads the result with AutoModelForCausalLM.from_pretrained(DEST).
    """
    from ndtrain.checkpoint.convert import export_folder

    export_folder(source, destination)
    click.echo(f"wrote {destination}")

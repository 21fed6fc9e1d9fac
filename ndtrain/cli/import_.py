"""`ndtrain import HF_DIR DEST`: a Hugging Face folder becomes a checkpoint."""

from pathlib import Path

import click


@click.command("import")
@click.argument("source", metavar="HF_DIR", type=click.Path(path_type=Path))
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
def import_(source: Path, destination: Path) -> None:
    """Hugging Face folder to checkpoint.

    model.weights and `ndtrain generate` take DEST; they take HF_DIR as well.
    """
    from ndtrain.checkpoint.convert import import_folder

    import_folder(source, destination)
    click.echo(f"wrote {destination}")

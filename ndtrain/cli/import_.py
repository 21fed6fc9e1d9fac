"""`ndtrain import SOURCE DEST`: a folder of others becomes a checkpoint."""

from pathlib import Path
from typing import Literal

import click


@click.command("import")
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option(
    "--kv-copies",
    type=click.Choice(["trn1"]),
    help="Order of heads in neuronx-distributed's files where key/value heads are copied.",
)
@click.option(
    "--optimizer",
    "with_optimizer",
    is_flag=True,
    help="NxD's AdamW too, for a run with optim.restore=true.",
)
def import_(
    source: Path, destination: Path, kv_copies: Literal["trn1"] | None, with_optimizer: bool
) -> None:
    """Hugging Face or NxD to checkpoint.

    SOURCE is a folder as transformers writes it, or one of neuronx-distributed (NxD) with
    TAG/model/dp_rank_00_tp_rank_XX_pp_rank_00.pt and the model's config.json in it.
    model.weights and `ndtrain generate` take DEST; they take a Hugging Face folder as well.
    """
    from ndtrain.checkpoint.convert import import_folder

    import_folder(source, destination, kv_copies=kv_copies, with_optimizer=with_optimizer)
    click.echo(f"wrote {destination}")

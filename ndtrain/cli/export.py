"""`ndtrain export CHECKPOINT DEST`: a checkpoint becomes a folder that others read."""

from pathlib import Path
from typing import Literal

import click

from ndtrain.core.errors import UserError


@click.command()
@click.argument("source", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["hugging_face", "nxd"]),
    default="hugging_face",
    show_default=True,
    help="nxd: neuronx-distributed's, which needs --tp.",
)
@click.option("--tp", type=click.IntRange(min=1), help="Tensor ranks that will read it (nxd).")
@click.option(
    "--dp",
    type=click.IntRange(min=1),
    help="AdamW's state too, cut for this many data-parallel ranks (nxd).",
)
@click.option(
    "--kv-copies",
    type=click.Choice(["trn1"]),
    help="Order of heads where key/value heads are copied: more ranks than such heads (nxd).",
)
def export(
    source: Path,
    destination: Path,
    format_: str,
    tp: int | None,
    dp: int | None,
    kv_copies: Literal["trn1"] | None,
) -> None:
    """Checkpoint to Hugging Face or NxD.

    CHECKPOINT is a checkpoint, or a run directory for its newest one.
    transformers loads the result with AutoModelForCausalLM.from_pretrained(DEST),
    neuronx-distributed (NxD) with load_checkpoint(DEST, model=model).
    """
    if format_ == "nxd":
        if tp is None:
            raise UserError("--format nxd needs --tp", "the command line", "for example --tp 8")
        from ndtrain.checkpoint.nxd_writer import export_nxd

        export_nxd(source, destination, tp, kv_copies, dp)
    else:
        if any(option is not None for option in (tp, dp, kv_copies)):
            raise UserError(
                "--tp, --dp and --kv-copies are for --format nxd",
                "the command line",
                "leave them out: a Hugging Face folder is whole",
            )
        from ndtrain.checkpoint.convert import export_folder

        export_folder(source, destination)
    click.echo(f"wrote {destination}")

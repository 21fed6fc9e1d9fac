"""`ndtrain eval CHECKPOINT CONFIG [a.b=v ...]`: loss and perplexity on held-out rows."""

from pathlib import Path

import click

from ndtrain.cli import terminal
from ndtrain.cli.arguments import PASS_ON_OPTIONS, check_overrides, complete_config


@click.command("eval", context_settings=PASS_ON_OPTIONS)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("config", shell_complete=complete_config)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@click.option("--rows", type=click.IntRange(min=1), help="At most so many rows; by default all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def eval_(
    ctx: click.Context,
    checkpoint: Path,
    config: str,
    overrides: tuple[str, ...],
    rows: int | None,
    as_json: bool,
) -> None:
    """Loss and perplexity on held-out data.

    CHECKPOINT is a step folder, a run directory or a Hugging Face folder; its shape and tokenizer
    count. CONFIG says which data: its held-out share, with its data.sequence_length and masks.
    """
    from ndtrain.config.load import load
    from ndtrain.train.evaluate_checkpoint import evaluate_checkpoint

    loaded = load(config, check_overrides(ctx, config, overrides))
    log = (lambda text: None) if as_json else click.echo
    result = evaluate_checkpoint(checkpoint.expanduser(), loaded.config, rows, log)
    if as_json:
        terminal.print_json(result.to_json())
    else:
        click.echo(
            f"loss {result.loss:.6f} nats a token | perplexity {result.perplexity:.4f} |"
            f" {result.num_targets:,} tokens in {result.num_rows:,} rows"
        )

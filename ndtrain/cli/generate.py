"""`ndtrain generate CHECKPOINT --prompt TEXT`: continue a prompt."""

import click

from ndtrain.cli import terminal


@click.command()
@click.argument("checkpoint", type=click.Path())
@click.option("--prompt", required=True, help="Text to continue.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Stop after so many tokens, if the text has not ended.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.8,
    show_default=True,
    help="0 takes the likeliest token each time.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.95,
    show_default=True,
    help="Sample among the likeliest tokens that together have this probability.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The same seed gives the same text.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def generate(
    checkpoint: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    as_json: bool,
) -> None:
    """Continue a prompt.

    CHECKPOINT is a checkpoint, a run directory for its newest one, or a Hugging Face folder.
    """
    from ndtrain.train.sample import sample

    text = sample(checkpoint, prompt, max_new_tokens, temperature, top_p, seed)
    if as_json:
        terminal.print_json({"prompt": prompt, "text": text})
    else:
        click.echo(text)

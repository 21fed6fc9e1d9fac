"""`ndtrain config show|ls|copy|schema`: what a config says, which presets exist, what keys mean."""

import os
from pathlib import Path

import click

from ndtrain.cli import terminal
from ndtrain.cli.arguments import PASS_ON_OPTIONS, check_overrides, complete_config
from ndtrain.core.errors import UserError


@click.group()
def config() -> None:
    """Show, list, copy and explain configs."""


@config.command(context_settings=PASS_ON_OPTIONS)
@click.argument("config", shell_complete=complete_config)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@click.option("--origin", is_flag=True, help="Say where each value came from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def show(
    ctx: click.Context, config: str, overrides: tuple[str, ...], origin: bool, as_json: bool
) -> None:
    """Print every key with its value, after presets and overrides."""
    from ndtrain.config import explain
    from ndtrain.config.load import load

    loaded = load(config, check_overrides(ctx, config, overrides))
    if not as_json:
        click.echo(explain.show(loaded, origin), nl=False)
        return
    values: dict[str, object] = {"config": loaded.config.model_dump(mode="json")}
    terminal.print_json(values | {"origins": loaded.origins} if origin else values)


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """List the presets."""
    from ndtrain.config import presets

    rows = [(name, presets.summary(name)) for name in presets.names()]
    if as_json:
        terminal.print_json([{"name": name, "summary": summary} for name, summary in rows])
        return
    width = max(len(name) for name, _ in rows)
    for name, summary in rows:
        click.echo(f"{name:<{width}}  {summary}")
    click.echo("\nJoin a size and a recipe with +, for instance qwen3_0.6b+pretrain.")


@config.command()
@click.argument("name", shell_complete=complete_config)
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the destination.")
def copy(name: str, destination: Path, force: bool) -> None:
    """Copy a preset, or a size and a recipe joined by +, to a file of your own."""
    from ndtrain.config import presets

    if destination.is_dir():
        destination = destination / f"{name.rpartition('/')[2]}.yaml"
    if destination.exists() and not force:
        raise UserError(f"{destination} exists", "the command line", "--force replaces it")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_text(presets.text_of_copy(name), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write {destination}: {error.strerror}", "the command line"
        ) from None
    click.echo(f"wrote {os.fspath(destination)}")


@config.command()
@click.option("--field", default="", help="One section or key, such as optim or optim.lr.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    help="yaml: each key with its meaning, legal values and default; json: JSON schema.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def schema(field: str, style: str, as_json: bool) -> None:
    """Explain the keys: meaning, legal values, default."""
    from ndtrain.config import explain

    if as_json or style == "json":
        terminal.print_json(explain.json_schema(field))
    else:
        click.echo(explain.reference(field), nl=False)

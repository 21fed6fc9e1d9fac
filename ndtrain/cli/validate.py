"""`ndtrain validate CONFIG...`: every error of every config, without hardware."""

import click

from ndtrain.cli import terminal
from ndtrain.cli.arguments import complete_config
from ndtrain.core.errors import UserError, UserErrors


@click.command()
@click.argument("configs", nargs=-1, required=True, shell_complete=complete_config)
@click.option(
    "--world-size",
    type=click.IntRange(min=1),
    help="Check for so many ranks too; by default what each config asks for.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate(configs: tuple[str, ...], world_size: int | None, as_json: bool) -> int:
    """Check configs, without hardware.

    CONFIGS are presets, sizes joined to recipes by +, or YAML files. Exit code 0 when all are
    right, 2 otherwise.
    """
    found = {config: problems(config, world_size) for config in configs}
    if as_json:
        terminal.print_json([_as_json(config, errors) for config, errors in found.items()])
    else:
        for config, errors in found.items():
            _print(config, errors)
    return UserError.exit_code if any(found.values()) else 0


def problems(config: str, world_size: int | None) -> list[UserError]:
    """What is wrong with one config; empty when nothing is."""
    from ndtrain.config import checks
    from ndtrain.config.load import load

    try:
        loaded = load(config)
        ranks = world_size or checks.world_size(loaded.config)
        checks.check(loaded.config, ranks, loaded.origins)
    except UserErrors as several:
        return several.errors
    except UserError as error:
        return [error]
    return []


def _print(config: str, errors: list[UserError]) -> None:
    if not errors:
        click.echo(f"ok    {config}")
    for error in errors:
        terminal.print_error(str(error))


def _as_json(config: str, errors: list[UserError]) -> dict[str, object]:
    listed = [{"what": error.what, "where": error.where, "help": error.help} for error in errors]
    return {"config": config, "ok": not errors, "errors": listed}

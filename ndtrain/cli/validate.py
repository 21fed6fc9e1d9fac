"""`ndtrain validate CONFIG...`: every error of every config, without hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import click

from ndtrain.cli import terminal
from ndtrain.cli.arguments import complete_config
from ndtrain.core.errors import UserError, UserErrors

if TYPE_CHECKING:
    from ndtrain.hardware.instances import Instance

    Place: TypeAlias = tuple[Instance, int]  # what a node is, and how many


@click.command()
@click.argument("configs", nargs=-1, required=True, shell_complete=complete_config)
@click.option(
    "--world-size",
    type=click.IntRange(min=1),
    help="Check for so many ranks too; by default what each config asks for.",
)
@click.option("--hardware", help="Check the placement on such nodes too, e.g. trn1.32xlarge.")
@click.option("--nodes", type=click.IntRange(min=1), help="So many of them; 1 by default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate(
    configs: tuple[str, ...],
    world_size: int | None,
    hardware: str | None,
    nodes: int | None,
    as_json: bool,
) -> int:
    """Check configs, without hardware.

    CONFIGS are presets, sizes joined to recipes by +, or YAML files; a.b=v among them is set in
    each. Exit code 0 when all are right, 2 otherwise.
    """
    overrides = tuple(argument for argument in configs if "=" in argument)
    configs = tuple(argument for argument in configs if "=" not in argument)
    if not configs:
        raise UserError("there is no config to check", "the command line", "`ndtrain config ls`")
    if hardware is None and nodes is not None:
        raise UserError("--nodes without --hardware", "the command line", "say what a node is")
    place = None if hardware is None else _place(hardware, nodes or 1, world_size)
    found = {config: problems(config, overrides, world_size, place) for config in configs}
    if as_json:
        terminal.print_json([_as_json(config, errors) for config, errors in found.items()])
    else:
        for config, errors in found.items():
            _print(config, errors)
            if place is not None and place[0].device is not None and not errors:
                from ndtrain.cluster.placement import load_for, predict

                loaded = load_for(config, overrides, place[0])
                click.echo(f"      {predict(loaded.config, *place)}")
    return UserError.exit_code if any(found.values()) else 0


def _place(hardware: str, nodes: int, world_size: int | None) -> Place:
    from ndtrain.hardware.instances import find_instance

    instance = find_instance(hardware)
    if world_size is not None and instance.device is not None:
        ranks = nodes * instance.num_devices
        what = f"--world-size beside --hardware {hardware}, whose {nodes} nodes have {ranks} ranks"
        raise UserError(what, "the command line", "leave one of them out")
    return instance, nodes


def problems(
    config: str, overrides: tuple[str, ...], world_size: int | None, place: Place | None = None
) -> list[UserError]:
    """What is wrong with one config; empty when nothing is."""
    from ndtrain.cluster.placement import check_placement, load_for
    from ndtrain.config import checks
    from ndtrain.config.load import load

    try:
        loaded = load(config, overrides) if place is None else load_for(config, overrides, place[0])
    except UserError as error:
        return _each(error)
    ranks = world_size or checks.world_size(loaded.config)
    errors: list[UserError] = []
    if place is not None and place[0].device is not None:
        ranks = place[1] * place[0].num_devices
        try:
            check_placement(loaded.config, *place, loaded.origins)
        except UserError as error:
            errors += _each(error)
    try:
        checks.check(loaded.config, ranks, loaded.origins)
    except UserError as error:
        errors += _each(error)
    return errors


def _each(error: UserError) -> list[UserError]:
    return error.errors if isinstance(error, UserErrors) else [error]


def _print(config: str, errors: list[UserError]) -> None:
    if not errors:
        click.echo(f"ok    {config}")
    for error in errors:
        terminal.print_error(str(error))


def _as_json(config: str, errors: list[UserError]) -> dict[str, object]:
    listed = [{"what": error.what, "where": error.where, "help": error.help} for error in errors]
    return {"config": config, "ok": not errors, "errors": listed}

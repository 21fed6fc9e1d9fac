"""`ndtrain train CONFIG [a.b=v ...]`: check the config, then start ranks or be one."""

import os
import shlex
from typing import NoReturn

import click

from ndtrain.cli.arguments import PASS_ON_OPTIONS, check_overrides, complete_config
from ndtrain.core.errors import UserError


@click.command(context_settings=PASS_ON_OPTIONS)
@click.argument("config", shell_complete=complete_config)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--nproc-per-node",
    "--nproc_per_node",
    type=click.IntRange(min=1),
    help="Ranks to start on this machine; by default what parallel.tp and parallel.dp ask for.",
)
@click.option("--nnodes", type=click.IntRange(min=1), default=1, help="More than 1: use torchrun.")
@click.option(
    "--resume",
    metavar="auto|never|PATH",
    help="Where to go on: the run's newest sound checkpoint (auto), nowhere, or a checkpoint.",
)
@click.option(
    "--replan", is_flag=True, help="Decide the overlap again: the same as overlap.replan=true."
)
@click.option("--dry-run", is_flag=True, help="Check, print what would run, and stop.")
@click.option(
    "--world-size",
    type=click.IntRange(min=1),
    help="With --dry-run: check for so many ranks, whatever this machine has.",
)
@click.pass_context
def train(
    ctx: click.Context,
    config: str,
    overrides: tuple[str, ...],
    nproc_per_node: int | None,
    nnodes: int,
    resume: str | None,
    replan: bool,
    dry_run: bool,
    world_size: int | None,
) -> int:
    """Train a model on this machine's ranks.

    CONFIG is a preset (quickstart), a size and a recipe (qwen3_0.6b+pretrain) or a YAML file.
    Overrides are a.b=v, for instance optim.lr=1e-4.

    The same command again goes on from the newest checkpoint of the run directory. Ctrl-C, TERM,
    USR1 and a file STOP in the run directory save and stop; a file SAVE saves.

    Under torchrun, which sets RANK and WORLD_SIZE, this process is one of the ranks:

      torchrun --nproc-per-node 2 -m ndtrain train quickstart
    """
    from ndtrain.config.checks import check
    from ndtrain.config.load import load

    overrides = check_overrides(ctx, config, overrides)
    if resume is not None:
        overrides = (*overrides, f"checkpoint.resume={resume}")
    if replan:
        overrides = (*overrides, "overlap.replan=true")
    is_rank = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if world_size is not None and not dry_run:
        _refuse("--world-size belongs to --dry-run", "--nproc-per-node sets how many ranks start")
    if is_rank and nproc_per_node is not None:
        _refuse("--nproc-per-node, but torchrun has started the ranks", "unset RANK, or drop it")
    if nnodes > 1 and not is_rank:
        command = _torchrun(nnodes, nproc_per_node, [config, *overrides])
        _refuse(f"--nnodes {nnodes}: torchrun starts several nodes", f"on each: `{command}`")
    loaded = load(config, overrides)
    num_ranks = int(os.environ["WORLD_SIZE"]) if is_rank else world_size or nproc_per_node
    check(loaded.config, num_ranks, loaded.origins)
    if dry_run:
        from ndtrain.cli.dry_run import describe

        click.echo(describe(loaded, num_ranks))
        return 0
    from ndtrain.train.launch import launch

    return launch(loaded, nproc_per_node, is_rank)


def _refuse(what: str, help_text: str) -> NoReturn:
    raise UserError(what, "the command line", help_text)


def _torchrun(nnodes: int, nproc_per_node: int | None, arguments: list[str]) -> str:
    return (
        f"torchrun --nnodes {nnodes} --nproc-per-node {nproc_per_node or 'N'} "
        "--rdzv-backend c10d --rdzv-endpoint HOST:29400 "
        f"-m ndtrain train {shlex.join(arguments)}"
    )

"""`ndtrain precompile CONFIG [a.b=v ...]`: the graphs of a run, compiled before it starts."""

import os

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
@click.pass_context
def precompile(
    ctx: click.Context, config: str, overrides: tuple[str, ...], nproc_per_node: int | None
) -> int:
    """Compile a run's graphs before it.

    Initial state, training step and evaluation go into the compile cache, and `ndtrain train` with
    the same configuration finds them there. It prints each one's time and whether the cache had
    it, or why not. Nothing is trained and no run directory is made.

    With runtime.device=xla each is a graph; the cache is neuronx-cc's, on torch-xla's CPU device
    the folder XLA_PERSISTENT_CACHE_PATH. With runtime.device=neuron each is as many graphs as it
    has operations; the cache is torch-neuronx's, the folder TORCH_NEURONX_NEFF_CACHE_DIR.

    A graph has the groups of all ranks in it, so as many ranks have to run as will train: on
    several nodes by the job's own script, see launch/README.md.
    """
    from ndtrain.config.checks import check
    from ndtrain.config.load import load
    from ndtrain.train.launch import PRECOMPILE, launch, require_compiler

    loaded = load(config, check_overrides(ctx, config, overrides))
    require_compiler(loaded)
    is_rank = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if is_rank and nproc_per_node is not None:
        what = "--nproc-per-node, but torchrun has started the ranks"
        raise UserError(what, "the command line", "unset RANK, or drop it")
    check(
        loaded.config,
        int(os.environ["WORLD_SIZE"]) if is_rank else nproc_per_node,
        loaded.origins,
    )
    return launch(loaded, nproc_per_node, is_rank, PRECOMPILE)

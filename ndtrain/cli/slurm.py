"""`ndtrain slurm CONFIG --nodes N`: write, print or submit the script of a SLURM job."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from ndtrain.cli.arguments import PASS_ON_OPTIONS, check_overrides, complete_config
from ndtrain.core.errors import UserError

if TYPE_CHECKING:
    from ndtrain.cluster.script import Job
    from ndtrain.hardware.instances import Instance


@click.command(context_settings=PASS_ON_OPTIONS)
@click.argument("config", shell_complete=complete_config)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@click.option("--nodes", type=click.IntRange(min=1), required=True, help="Nodes of the job.")
@click.option(
    "--hardware",
    required=True,
    help="What a node is: trn1.2xlarge, trn1.32xlarge, trn1n.32xlarge, trn2.48xlarge or cpu.",
)
@click.option(
    "--nproc-per-node",
    "--nproc_per_node",
    type=click.IntRange(min=1),
    help="Ranks of a node, with --hardware cpu; on the others every device has one.",
)
@click.option(
    "--sbatch",
    "options",
    multiple=True,
    metavar="--NAME=VALUE",
    help="One more option of sbatch, e.g. --sbatch=--time=2-00:00:00; may be repeated.",
)
@click.option(
    "--python",
    default=sys.executable,
    help="The interpreter on the nodes; by default the one that runs this.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the script to this file.")
@click.option("--submit", is_flag=True, help="Write it beside the run directory, and call sbatch.")
@click.option("--print-env", is_flag=True, help="Print the variables of the ranks, with reasons.")
@click.pass_context
def slurm(
    ctx: click.Context,
    config: str,
    overrides: tuple[str, ...],
    nodes: int,
    hardware: str,
    nproc_per_node: int | None,
    options: tuple[str, ...],
    python: str,
    out: Path | None,
    submit: bool,
    print_env: bool,
) -> int:
    """Write the script of a SLURM job.

    It is printed unless --out or --submit says otherwise. The job examines its nodes, trains with
    torchrun, saves when SLURM is about to end it, and goes on in a new start when the last one
    made progress: see launch/README.md.

      ndtrain slurm qwen3_8b+pretrain --nodes 4 --hardware trn1.32xlarge parallel.tp=8
    """
    from ndtrain.cluster.environment import environment
    from ndtrain.cluster.lead import measure_lead
    from ndtrain.cluster.placement import load_for
    from ndtrain.cluster.script import Job
    from ndtrain.hardware.instances import find_instance

    overrides = check_overrides(ctx, config, overrides)
    if out is not None and submit:
        _refuse("--out and --submit", "--submit writes to RUN.slurm/job.sbatch itself")
    for option in options:
        if not option.startswith("--") or not option.isprintable():
            _refuse(f"--sbatch {option!r}", "write e.g. --sbatch=--partition=trn1")
    instance = find_instance(hardware)
    loaded = load_for(config, overrides, instance)
    run = loaded.config.run
    job = Job(
        loaded=loaded,
        instance=instance,
        num_nodes=nodes,
        ranks_per_node=_ranks_per_node(instance, nproc_per_node),
        python=python,
        lead=measure_lead(Path(run.directory) / run.name),
        options=options,
        command=_command(nodes, hardware, nproc_per_node, options, config, overrides),
    )
    job.check()
    if print_env:
        for variable in environment(loaded.config, instance, nodes, loaded.origins):
            click.echo(f"{variable.name}={shlex.quote(variable.value)}  # {variable.reason}")
        return 0
    return _deliver(job, out, submit)


def _ranks_per_node(instance: Instance, given: int | None) -> int:
    if instance.device is None:
        if given is None:
            _refuse("--hardware cpu without --nproc-per-node", "say how many ranks a node has")
        return given
    if given not in (None, instance.num_devices):
        what = f"--nproc-per-node {given}: {instance.name} has {instance.num_devices} devices"
        _refuse(what, "every device has a rank: leave the option out")
    return instance.num_devices


def _deliver(job: Job, out: Path | None, submit: bool) -> int:
    script = job.script()
    if submit:
        out = job.run_directory.with_name(f"{job.run_directory.name}.slurm") / "job.sbatch"
    if out is None:
        click.echo(script, nl=False)
        return 0
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(script, "utf-8")
    click.echo(f"wrote {out}")
    return _submit(out) if submit else 0


def _submit(script: Path) -> int:
    if shutil.which("sbatch") is None:
        _refuse("there is no `sbatch` on PATH", f"on the cluster: `sbatch {script}`")
    done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(
            f"sbatch refused the job: {' '.join(done.stderr.split())}",
            str(script),
            "`sinfo` shows partitions and nodes; --sbatch passes options on",
        )
    click.echo(done.stdout.strip())
    return 0


def _command(
    nodes: int,
    hardware: str,
    nproc_per_node: int | None,
    options: tuple[str, ...],
    config: str,
    overrides: tuple[str, ...],
) -> str:
    """What writes the same script again, for its comment."""
    words = ["ndtrain", "slurm", config, "--nodes", str(nodes), "--hardware", hardware]
    words += [] if nproc_per_node is None else ["--nproc-per-node", str(nproc_per_node)]
    return shlex.join([*words, *(f"--sbatch={option}" for option in options), *overrides])


def _refuse(what: str, help_text: str) -> NoReturn:
    raise UserError(what, "the command line", help_text)

"""The sbatch script of a job: a head that is written for it, and a body that every job shares.

    job = Job(loaded, find_instance("trn1.32xlarge"), num_nodes=4, command="ndtrain slurm ...")
    text = job.script()

The body is that of `launch/slurm.sbatch`, which is such a script itself and can be edited by hand;
on each node it starts `launch/torchrun.sh`. Both lie in the package.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import ndtrain
from ndtrain.cluster.environment import environment
from ndtrain.cluster.lead import Lead
from ndtrain.cluster.placement import check_placement
from ndtrain.config.checks import check, data_parallel
from ndtrain.config.load import Loaded
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError
from ndtrain.hardware.instances import Instance

_LINE = "# ---------------- Below this line"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What decides the head of the script.

    options: of sbatch, each `--name=value`, besides those that the script needs itself.
    command: what the user typed, for the script's own comment.
    """

    loaded: Loaded
    instance: Instance
    num_nodes: int
    ranks_per_node: int
    python: str
    lead: Lead
    options: tuple[str, ...]
    command: str

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.ranks_per_node

    @property
    def run_directory(self) -> Path:
        return Path(self.config.run.directory) / self.config.run.name

    def check(self) -> None:
        """Raises UserError or UserErrors unless such a job can train, and go on when requeued."""
        # First, because it knows which values are legal there.
        check_placement(self.config, self.instance, self.num_nodes, self.loaded.origins)
        check(self.config, self.world_size, self.loaded.origins)
        if self.config.checkpoint.resume == "never":
            raise UserError(
                "checkpoint.resume=never: a job that is requeued goes on from its checkpoint",
                f"checkpoint.resume from {self.loaded.origins['checkpoint.resume']}",
                "leave it at auto; for a new run choose another run.name",
            )

    def script(self) -> str:
        head = [*self._options(), *self._comment(), *self._variables(), *self._environment()]
        return "\n".join(head) + "\n" + body()

    def _options(self) -> list[str]:
        own = [
            f"--job-name={self.config.run.name}",
            f"--nodes={self.num_nodes}",
            "--ntasks-per-node=1",
            # Nodes of a cloud start with the job: without it the script begins with the first one.
            "--wait-all-nodes=1",
            "--exclusive",
            "--mem=0",
            f"--signal=B:USR1@{self.lead.seconds}",
            "--open-mode=append",
            "--requeue",
            "--output=%x-%j.log",
        ]
        names = {option.partition("=")[0] for option in own}
        for option in self.options:
            if option.partition("=")[0] in names:
                what = f"the script sets `{option.partition('=')[0]}` itself"
                raise UserError(what, "--sbatch", "edit the script, or leave the option out")
        return ["#!/bin/bash", *(f"#SBATCH {option}" for option in (*own, *self.options))]

    def _comment(self) -> list[str]:
        dp = data_parallel(self.config, self.world_size)
        return [
            "#",
            f"# {self.loaded.source} on {self.num_nodes} x {self.instance.name}:"
            f" {self.world_size} ranks = {self.config.parallel.tp} tensor x {dp} data parallel.",
            f"# Written by: {self.command}",
            f"# USR1 comes {self.lead.seconds} s before the end: {self.lead.reason}.",
            "# Start it in the folder that relative paths below begin in.",
            "",
        ]

    def _variables(self) -> list[str]:
        overrides = " ".join(shlex.quote(override) for override in self.loaded.overrides)
        return [
            f"config={shlex.quote(self.loaded.source)}",
            f"overrides=({overrides})",
            f"run={shlex.quote(str(self.run_directory))}",
            f"python={shlex.quote(self.python)}",
            f"node_script={shlex.quote(_shown(folder() / 'torchrun.sh'))}",
            f"hardware={self.instance.name}",
            f"ranks_per_node={self.ranks_per_node}",
            f"lead={self.lead.seconds} # seconds, as in --signal above",
            "max_excluded=2 # bad nodes that the job replaces before it gives up",
            "",
        ]

    def _environment(self) -> list[str]:
        variables = environment(
            self.config, self.instance, self.num_nodes, dict(self.loaded.origins)
        )
        lines = [
            f"# {reason}\nexport {name}={shlex.quote(value)}" for name, value, reason in variables
        ]
        return [*lines, ""] if lines else []


def folder() -> Path:
    """`launch/`: inside the package when installed, beside it in a checkout."""
    for base in ndtrain.__path__:
        candidate = Path(base) / "launch"
        if (candidate / "slurm.sbatch").is_file():
            return candidate
    raise AssertionError("ndtrain is installed without its launch/")


def body() -> str:
    """What follows the head in `launch/slurm.sbatch`."""
    text = (folder() / "slurm.sbatch").read_text("utf-8")
    assert text.count(_LINE) == 1, "the line that divides head and body"
    return text[text.index(_LINE) :]


def _shown(path: Path) -> str:
    """Relative where it lies below the folder of the submission, as a person would write it."""
    here = Path(os.getcwd())
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

"""Starts the ranks of a run on this machine, passes signals on to them, and ends with their code.

    exit_code = launch(loaded, num_local_ranks=None, run_under_torchrun=False)
    exit_code = launch(..., work=PRECOMPILE)

One rank runs in this process. Several are started as `python -m ndtrain.train.worker`, each of
which loads the same configuration. Under torchrun this process is one of the ranks already.
"""

import importlib
import os
import sys
import tempfile
from pathlib import Path

from ndtrain.config.checks import data_parallel, resolve, world_size
from ndtrain.config.load import Loaded
from ndtrain.config.overlapping import overlaps
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.runtime.neuron_environment import STREAM_VARIABLES
from ndtrain.train.place import RENDEZVOUS, threads_per_rank

# What ranks can be started for: modules with a `run_rank` that are run as programs as well.
TRAIN = "ndtrain.train.worker"
PRECOMPILE = "ndtrain.train.precompile"


def launch(
    loaded: Loaded, num_local_ranks: int | None, run_under_torchrun: bool, work: str = TRAIN
) -> int:
    """Returns the exit code of the run: of the rank that failed first, 0 if none did."""
    num_ranks = num_local_ranks or world_size(loaded.config)
    if not run_under_torchrun:
        resolve(loaded.config, num_ranks)  # raises here, once, and not in every rank
    if run_under_torchrun or num_ranks == 1:
        code: int = importlib.import_module(work).run_rank(loaded)
        return code
    died, code = _launch_ranks(loaded, num_ranks, work)
    if died and work == TRAIN:
        run = loaded.config.run
        _record_death(RunDirectory(Path(run.directory) / run.name), died)
    return code


def require_compiler(loaded: Loaded) -> None:
    """Raises UserError for a run that keeps nothing compiled: PRECOMPILE has no work there.

    What torch.compile makes on a CPU PyTorch keeps by itself, and it takes a minute.
    """
    device = loaded.config.runtime.device
    if device == "cpu":
        raise UserError(
            f"runtime.device={device} has no compile cache to fill",
            f"runtime.device from {loaded.origins['runtime.device']}",
            "set runtime.device=xla, on Trainium or on torch-xla's CPU device, or neuron on trn2",
        )


def _launch_ranks(loaded: Loaded, num_ranks: int, work: str) -> tuple[str, int]:
    """What ended the first rank that a signal ended, "" if none did; and the exit code."""
    from ndtrain.train.processes import Ranks

    command = [sys.executable, "-m", work, loaded.source, *loaded.overrides]
    environment = {"OMP_NUM_THREADS": str(threads_per_rank(num_ranks)), **os.environ}
    if loaded.config.runtime.device == "neuron":
        # Ranks on one machine: the device's backend asks for an address all the same.
        address = {"MASTER_ADDR": "127.0.0.1"}
        environment = {**address, **_stream_variables(loaded.config, num_ranks), **environment}
    with tempfile.TemporaryDirectory(prefix="ndtrain-") as scratch:
        environment[RENDEZVOUS] = f"file://{scratch}/rendezvous"
        ranks = Ranks(command, num_ranks, environment)
        code = ranks.wait()
    return ranks.died, code


def _stream_variables(config: Config, num_ranks: int) -> dict[str, str]:
    """For ranks whose collectives are to run beside compute."""
    does = overlaps(config, data_parallel(config, num_ranks) or 1)
    return dict.fromkeys(STREAM_VARIABLES, "1") if does else {}


def _record_death(directory: RunDirectory, reason: str) -> None:
    """Ranks that die without a word leave a status that says they run."""
    from dataclasses import replace

    status = directory.status()
    if status is not None and status.state == "running":
        directory.write_status(replace(status, state="failed", reason=reason, retryable=True))

"""Starts the ranks of a run on this machine through torch's elastic launcher.

    exit_code = launch(loaded, num_local_ranks=None, run_under_torchrun=False)

One rank runs in this process. Several are started as `python -m ndtrain.train.worker`, each of
which loads the same configuration. Under torchrun this process is one of the ranks already.
"""

import logging
import os
import sys
import tempfile
import uuid

from ndtrain.config.checks import resolve, world_size
from ndtrain.config.load import Loaded


def launch(loaded: Loaded, num_local_ranks: int | None, run_under_torchrun: bool) -> int:
    """Returns the exit code of the run: of the rank that failed first, 0 if none did."""
    if run_under_torchrun:
        from ndtrain.train.worker import run_rank

        return run_rank(loaded)
    num_ranks = num_local_ranks or world_size(loaded.config)
    resolve(loaded.config, num_ranks)  # raises here, once, and not in every rank
    if num_ranks == 1:
        from ndtrain.train.worker import run_rank

        return run_rank(loaded)
    return _launch_ranks(loaded, num_ranks)


def _launch_ranks(loaded: Loaded, num_ranks: int) -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # A rank that fails says why itself; elastic's account of it would only bury that.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="ndtrain-") as scratch:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_ranks,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=scratch),
        )
        command = ["-m", "ndtrain.train.worker", loaded.source, *loaded.overrides]
        # Ranks share the cores; more threads than cores would fight for them.
        os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_rank(num_ranks)))
        try:
            elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as error:
            return error.get_first_failure()[1].exitcode
    return 0


def threads_per_rank(num_local_ranks: int) -> int:
    from ndtrain.observe.environment import available_cpus

    return max(1, available_cpus() // num_local_ranks)

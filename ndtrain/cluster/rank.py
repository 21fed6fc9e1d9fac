"""A rank of a job on a cluster: `launch/torchrun.sh` starts one for each device.

    torchrun ... -m ndtrain.cluster.rank CONFIG [a.b=v ...]

It is `ndtrain.train.worker` with two things around it. A file in $NDTRAIN_PIDS has its process id
while it runs, because signals have to reach the ranks and not torchrun, which USR1 would end. And
a rank that was meant for a device does not train on a CPU instead.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ndtrain.config.load import load
from ndtrain.core.errors import UserError
from ndtrain.hardware.instances import Instance, find_instance

HARDWARE = "NDTRAIN_HARDWARE"  # an instance of hardware/instances.py
PIDS = "NDTRAIN_PIDS"  # folder of the files with process ids


def lacks_runtime(instance: Instance) -> str | None:
    """Why this version of ndtrain cannot train on it; None if it can.

    The trainer starts its ranks on CPUs (`runtime.start_cpu`), whatever else the machine has.
    """
    if instance.device is None:
        return None
    return f"this version of ndtrain trains on CPUs alone, it has no runtime for {instance.name}"


@contextmanager
def announced(folder: str | None, local_rank: str) -> Iterator[None]:
    """While it lasts, the folder has this process's id in a file named by its rank in the node."""
    if folder is None:
        yield
        return
    file = Path(folder) / f"rank_{local_rank}.pid"
    partial = file.with_suffix(".partial")
    partial.write_text(f"{os.getpid()}\n")
    partial.rename(file)  # a reader sees all of it or nothing
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    try:
        lack = lacks_runtime(find_instance(os.environ.get(HARDWARE, "cpu")))
        if lack is not None:
            help_text = "train on CPUs with --hardware cpu, or install a version that has it"
            raise UserError(lack, HARDWARE, help_text)
        loaded = load(arguments[0], arguments[1:])
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    from ndtrain.train.worker import run_rank

    with announced(os.environ.get(PIDS), os.environ.get("LOCAL_RANK", "0")):
        return run_rank(loaded)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

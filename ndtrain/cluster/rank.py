"""A rank of a job on a cluster: `launch/torchrun.sh` starts one for each device.

    torchrun ... -m ndtrain.cluster.rank CONFIG [a.b=v ...]

It is `ndtrain.train.worker` with three things around it. A file in $NDTRAIN_PIDS has its process id
while it runs, because signals have to reach the ranks and not torchrun, which USR1 would end. A
rank that was meant for a device does not train on a CPU instead. And the first rank of a node
shares compiled graphs with other nodes. With $NDTRAIN_WORK=precompile ranks only compile.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ndtrain.cluster.compile_cache import shared_cache
from ndtrain.cluster.variable_names import OWNED, PERMUTES
from ndtrain.config.load import Loaded, load
from ndtrain.core.errors import UserError
from ndtrain.hardware.instances import HARDWARE, Instance, find_instance
from ndtrain.train.launch import PRECOMPILE, TRAIN

PIDS = "NDTRAIN_PIDS"  # folder of the files with process ids
WORK = "NDTRAIN_WORK"  # a key of WORKS
WORKS = {"train": TRAIN, "precompile": PRECOMPILE}
# runtime.device that drives a device of hardware/tables.py
RUNTIME_DEVICE = {"trn1": "xla", "trn2": "neuron", "trn3": "neuron"}


def _check(loaded: Loaded, instance: Instance) -> None:
    device = loaded.config.runtime.device
    if device == "xla" and os.environ.get(PERMUTES, "0") not in ("", "0"):
        help_text = f"unset {PERMUTES}, in the shell that calls sbatch too"
        raise UserError(f"{PERMUTES} is set: {OWNED[PERMUTES]}", "the environment", help_text)
    if instance.device is not None and device != RUNTIME_DEVICE[instance.device.name]:
        wanted = RUNTIME_DEVICE[instance.device.name]
        what = f"runtime.device={device} would leave the devices of {instance.name} idle"
        raise UserError(what, loaded.origins["runtime.device"], f"set runtime.device={wanted}")


def _module(work: str) -> str:
    if work not in WORKS:
        raise UserError(f"there is no work `{work}` for a rank", WORK, f"one of {', '.join(WORKS)}")
    return WORKS[work]


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
    local_rank = os.environ.get("LOCAL_RANK", "0")
    try:
        loaded = load(arguments[0], arguments[1:])
        _check(loaded, find_instance(os.environ.get(HARDWARE, "cpu")))
        module = _module(os.environ.get(WORK, "train"))
        with (
            announced(os.environ.get(PIDS), local_rank),
            shared_cache(loaded.config, int(local_rank), os.environ),
        ):
            code: int = importlib.import_module(module).run_rank(loaded)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

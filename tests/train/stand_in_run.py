"""A whole run with runtime.device=neuron on the stand-in, each rank in a process of its own.

python -m tests.train.stand_in_run CONFIG [a.b=v ...]

Several ranks are started by the launcher and talk by gloo. STAND_IN_WORK is the module whose work
they do, the trainer's by default. What they compile is kept where torch-neuronx would keep it.
"""

import importlib
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from ndtrain.cluster.compile_cache import shared_cache
from ndtrain.config.checks import world_size
from ndtrain.config.load import load
from ndtrain.runtime import start_neuron
from ndtrain.runtime.device_runtime import device_runtime
from ndtrain.runtime.device_transport import DeviceTransport
from ndtrain.runtime.native_cache import VARIABLE
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.launch import TRAIN, launch
from tests.parallel.stand_in_backend import neuron_backend
from tests.runtime.stand_in_cache import StandInCompiler
from tests.runtime.stand_in_neuron import StandIn


def run_rank(config: str, overrides: list[str]) -> int:
    loaded = load(config, overrides)
    compiler = StandInCompiler(Path(os.environ[VARIABLE]))
    compiler.install()

    def start(tp: int, dp: int, num_kv_heads: int, key: dict[str, str]) -> Runtime:
        first_runs = start_neuron.watch_first_runs(compiler, key)
        return device_runtime(
            torch.device("cpu"),
            StandIn(),
            DeviceTransport,
            tp,
            dp,
            num_kv_heads,
            "a stand-in",
            first_runs,
        )

    start_neuron.require_neuron = lambda overlaps: None
    start_neuron.start_neuron = start
    start_neuron.BACKEND = "gloo"
    work = importlib.import_module(os.environ.get("STAND_IN_WORK", TRAIN))
    compiles = loaded.config.runtime.compile
    backend = neuron_backend(running=compiler.region) if compiles else nullcontext()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    with shared_cache(loaded.config, local_rank, os.environ), backend, compiler:
        return work.run_rank(loaded)


if __name__ == "__main__":
    loaded = load(sys.argv[1], sys.argv[2:])
    if "RANK" not in os.environ and world_size(loaded.config) > 1:
        sys.exit(launch(loaded, None, False, "tests.train.stand_in_run"))
    sys.exit(run_rank(sys.argv[1], sys.argv[2:]))

"""A whole run with runtime.device=neuron on the stand-in, one rank, in a process of its own.

python -m tests.train.stand_in_run CONFIG [a.b=v ...]
"""

import sys
from contextlib import nullcontext

import torch

from ndtrain.config.load import load
from ndtrain.runtime import start_neuron
from ndtrain.runtime.device_runtime import device_runtime
from ndtrain.runtime.device_transport import DeviceTransport
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.worker import run_rank
from tests.parallel.stand_in_backend import neuron_backend
from tests.runtime.stand_in_neuron import StandIn


def start(tp: int, dp: int, num_kv_heads: int) -> Runtime:
    place = torch.device("cpu")
    return device_runtime(place, StandIn(), DeviceTransport, tp, dp, num_kv_heads, "a stand-in")


if __name__ == "__main__":
    start_neuron.require_neuron = lambda overlaps: None
    start_neuron.start_neuron = start
    loaded = load(sys.argv[1], sys.argv[2:])
    with neuron_backend() if loaded.config.runtime.compile else nullcontext():
        code = run_rank(loaded)
    sys.exit(code)

"""A rank that trains beside neuronx-distributed's parallel state: made before ours, and after.

torchrun --nproc-per-node=2 tests/xla/beside_nxd.py       # test_beside_nxd.py starts it
"""

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
import torch_xla
import torch_xla.distributed.xla_backend  # registers the backend of the group

from ndtrain.runtime.start_xla import start_xla
from tests.parallel.small import SHAPE
from tests.xla.nxd_checkout import VARIABLE, install, module
from tests.xla.small_run import Curve, start, train

ORDERS = ("theirs first", "ours first", "of other sizes")


def seen(state: Any) -> list[Any]:
    """What NxD says of this rank, and the groups themselves."""
    axes = ("tensor_model", "data", "pipeline_model", "context_model")
    return [
        getattr(state, f"get_{axis}_parallel_{what}")()
        for axis in axes
        for what in ("rank", "size", "group", "replica_groups")
    ]


def sum_of_ranks(group: Any) -> float:
    """A collective of NxD's in a graph: of this process alone, for the device knows no other."""
    tensor = torch.ones(1, device=torch_xla.device())
    dist.all_reduce(tensor, group=group)
    return tensor.item()


def beside(order: str, state: Any) -> Curve:
    tp = 1 if order == "of other sizes" else 2
    if order != "ours first":
        state.initialize_model_parallel(tensor_model_parallel_size=tp)
    small = start(start_xla(tp=2, dp=1, num_kv_heads=SHAPE.num_kv_heads))
    if order == "ours first":
        state.initialize_model_parallel(tensor_model_parallel_size=tp)
    before, groups = seen(state), len(dist.distributed_c10d._world.pg_map)
    assert state.get_tensor_model_parallel_size() == tp
    if tp == 2:
        mesh = small.runtime.mesh
        assert tuple(state.get_tensor_model_parallel_replica_groups()[0]) == mesh.tensor.ranks
        assert state.get_tensor_model_parallel_rank() == mesh.tensor.rank
        assert state.get_data_parallel_rank() == mesh.data.rank
    curve = train(small, 2)
    assert seen(state) == before
    assert state.model_parallel_is_initialized()
    assert len(dist.distributed_c10d._world.pg_map) == groups
    assert sum_of_ranks(state.get_tensor_model_parallel_group()) == 1.0
    state.destroy_model_parallel()
    return curve


if __name__ == "__main__":
    dist.init_process_group("xla")  # as a script for NxD does
    assert not [name for name in sys.modules if name.startswith("neuronx_distributed")]
    install(Path(os.environ[VARIABLE]) / "src")
    state = module("parallel_layers.parallel_state")
    curves = [beside(order, state) for order in ORDERS]
    assert dist.get_backend() == "xla"
    for curve in curves:
        assert curve[:2] == curves[0][:2], curves
    print("losses", *(loss.hex() for loss in curves[0].losses), flush=True)
    dist.destroy_process_group()

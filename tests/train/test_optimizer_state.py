"""Weights, master weights and moments move between layouts without a changed bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ndtrain.checkpoint.format import (
    FIRST_MOMENT,
    MASTER,
    SECOND_MOMENT,
    FileEntry,
    Manifest,
    Piece,
)
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.writer import begin, publish, write_files
from ndtrain.config.schema import Optim
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.runtime.runtime import start_cpu
from ndtrain.train.agree import gather_json
from ndtrain.train.optimizer_state import MasterWeights, load_moments, num_updates, state_pieces
from ndtrain.train.save import first_copies
from tests.parallel.small import SHAPE, loss_of, start
from tests.rank_pool import ranks

KINDS = (MASTER, FIRST_MOMENT, SECOND_MOMENT)
# 4 tensor ranks share 2 key/value heads in pairs; 3 data ranks pad their buckets.
LAYOUTS = [(1, 1), (4, 1), (2, 2), (1, 3), (1, 4)]


def write(rank: int, optimizer, model, shards, runtime, folder: Path) -> None:
    from dataclasses import asdict

    partial = folder.with_name(folder.name + ".partial")
    if rank == 0:
        begin(folder)
    runtime.collectives.barrier(runtime.mesh.world, "begun")
    entries = write_files(partial, f"state_{rank:04d}", state_pieces(optimizer, shards))
    if runtime.mesh.data.rank == 0:
        parameters = dict(model.named_parameters())
        weights = []
        for name, shard in shards.items():
            if copies := first_copies(parameters[name].detach(), shard, runtime.mesh):
                weights.append((Piece(name, shard.dim, tuple(copies[0])), copies[1]))
        entries += write_files(partial, f"rank_{rank:04d}", weights)
    gathered = gather_json(runtime, [asdict(entry) for entry in entries], "entries")
    files = tuple(FileEntry.from_json(value) for values in gathered for value in values)
    if rank == 0:
        publish(partial, folder, Manifest(SHAPE, "bfloat16", files, 2))
    runtime.collectives.barrier(runtime.mesh.world, "published")


def train_and_write(rank: int, tp: int, dp: int, folder: Path) -> None:
    runtime, model, optimizer, shards = start(SHAPE, tp, dp, torch.bfloat16)
    for step in range(2):
        loss_of(model, runtime, step)
        optimizer.step(1e-2)
    write(rank, optimizer, model, shards, runtime, folder)


def restore_and_write(rank: int, tp: int, dp: int, source: Path, folder: Path) -> int:
    runtime = start_cpu(tp, dp, SHAPE.num_kv_heads)
    with torch.device("meta"):
        model = Qwen3(SHAPE)
    shards = parallelize(model, runtime)
    checkpoint = Checkpoint(source)
    weights = MasterWeights(checkpoint)
    optimizer = ShardedAdamW(model, shards, weights, runtime, Optim(), torch.bfloat16)
    load_moments(optimizer, shards, checkpoint.state, 2)
    write(rank, optimizer, model, shards, runtime, folder)
    return num_updates(optimizer)


def whole_state(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder)
    state = dict(checkpoint.tensors())
    for name, value in list(state.items()):
        for kind in KINDS:
            whole = checkpoint.state.read(kind, name, 0, [(0, value.shape[0])])
            assert whole.dtype == torch.float32
            state[f"{kind}.{name}"] = whole
    return state


@pytest.mark.parametrize("origin", [(1, 4), (4, 1), (2, 2)])
def test_any_layout_goes_on_with_exactly_the_state(tmp_path: Path, origin: tuple) -> None:
    tp, dp = origin
    ranks(4).run(train_and_write, tp, dp, tmp_path / "origin")
    expected = whole_state(tmp_path / "origin")
    assert any(value.abs().sum() > 0 for name, value in expected.items() if FIRST_MOMENT in name)
    for tp, dp in LAYOUTS:
        folder = tmp_path / f"{tp}x{dp}"
        pool = ranks(tp * dp)
        assert pool.run(restore_and_write, tp, dp, tmp_path / "origin", folder) == [2] * tp * dp
        found = whole_state(folder)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), (name, tp, dp)

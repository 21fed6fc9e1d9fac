"""Writes the weights of a run as a checkpoint that any layout can read.

    folder = save(training, run_directory, step)

Each tensor rank of the first data-parallel row writes its own part; of what several ranks hold copies,
the first one writes it. All ranks learn whether every file was written before one rank publishes.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ndtrain.checkpoint.format import TOKENIZER, FileEntry, Manifest
from ndtrain.checkpoint.source import step_folder
from ndtrain.checkpoint.writer import begin, describe, partial_of, publish, write_rank
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.parallel.shard import Shard
from ndtrain.runtime.dtypes import DTYPES
from ndtrain.runtime.mesh import Mesh
from ndtrain.train.agree import gather_json, together
from ndtrain.train.build import Training

PieceOfRank = tuple[str, int, list[tuple[int, int]], Tensor]


def save(training: Training, run_directory: RunDirectory, step: int) -> Path:
    """Returns the checkpoint's folder. Collective over the world; raises on all ranks or none."""
    runtime = training.runtime
    rank = runtime.mesh.world.rank
    final = step_folder(run_directory.path, step)
    partial = partial_of(final)

    def start() -> None:
        if rank == 0:
            begin(final)

    def write() -> list[FileEntry]:
        entries = []
        if runtime.mesh.data.rank == 0:
            entries += write_rank(partial, rank, own_pieces(training))
        if rank == 0:
            training.dataset.tokenizer.export(partial / TOKENIZER)
            names = sorted(path.name for path in (partial / TOKENIZER).iterdir())
            entries += [describe(partial, f"{TOKENIZER}/{name}") for name in names]
        return entries

    together(runtime, start, "save.begin")
    entries = together(runtime, write, "save.write")
    gathered = gather_json(runtime, [asdict(entry) for entry in entries], "save.entries")
    files = tuple(FileEntry.from_json(value) for values in gathered for value in values)

    def finish() -> None:
        if rank == 0:
            dtype = str(DTYPES[training.config.train.compute_dtype]).removeprefix("torch.")
            publish(partial, final, Manifest(training.shape, dtype, files, step))

    together(runtime, finish, "save.publish")
    return final


def own_pieces(training: Training) -> Iterator[PieceOfRank]:
    """What this rank writes: its parameters without the slices that an earlier rank writes."""
    parameters = dict(training.model.named_parameters())
    for name, shard in training.shards.items():
        piece = _first_copies(parameters[name].detach(), shard, training.runtime.mesh)
        if piece is not None:
            bounds, tensor = piece
            yield name, shard.dim, bounds, tensor


def _first_copies(
    local: Tensor, shard: Shard, mesh: Mesh
) -> tuple[list[tuple[int, int]], Tensor] | None:
    bounds, tensors, row = [], [], 0
    for part in shard.slices:
        # Copies lie on neighbouring tensor ranks.
        if mesh.tensor.rank % part.num_replicas == 0:
            bounds.append((part.start, part.stop))
            tensors.append(local.narrow(shard.dim, row, part.size))
        row += part.size
    return (bounds, torch.cat(tensors, shard.dim)) if tensors else None

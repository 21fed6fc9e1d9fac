"""Saves the whole state of a run as a checkpoint that any layout can read.

    saver = Saver(training, run_directory, report.note)
    saver.start(state)                   # a copy in memory; files are written in the background
    if report.agreed.is_written:         # at the end of a later step, on all ranks
        folder = saver.finish()          # publishes

Collectives are called from the main thread alone. The weights are written by the first row of
data-parallel ranks, each tensor rank its part; of what several ranks hold copies, the first one
writes it; of the optimizer's state every rank writes the ranges it owns. At most one save is in
flight.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ndtrain.checkpoint.format import TOKENIZER, FileEntry, Manifest, Piece
from ndtrain.checkpoint.retention import Pruned, prune
from ndtrain.checkpoint.source import step_folder
from ndtrain.checkpoint.writer import (
    begin,
    describe,
    partial_of,
    publish,
    write_files,
    write_training,
)
from ndtrain.core.errors import UserError
from ndtrain.core.faults import reach
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.parallel.shard import Shard
from ndtrain.runtime.dtypes import DTYPES
from ndtrain.runtime.mesh import Mesh
from ndtrain.runtime.streams import Pending
from ndtrain.train.agree import Bystander, gather_json
from ndtrain.train.build import Training
from ndtrain.train.optimizer_state import readable, state_pieces
from ndtrain.train.training_state import TrainingState

Pieces = Iterable[tuple[Piece, Tensor]]


class SaveFailed(UserError):
    """Too many saves in a row failed. The last checkpoint that was published is whole."""

    exit_code = 1


class Saver:
    def __init__(
        self, training: Training, run_directory: RunDirectory, note: Callable[[str], None]
    ) -> None:
        self._training = training
        self._run = run_directory
        self._note = note
        self._settings = training.config.checkpoint
        self._mesh = training.runtime.mesh
        self._is_first = self._mesh.world.rank == 0
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[list[FileEntry]] | None = None
        self._pruning: Future[Pruned] | None = None
        self._final = Path()
        self.num_failures = 0  # in a row

    @property
    def in_flight(self) -> bool:
        return self._writing is not None

    @property
    def is_written(self) -> bool:
        """Whether this rank's files of the save in flight are on the disk, or failed."""
        return self._writing is not None and self._writing.done()

    def start(self, state: TrainingState) -> None:
        """Collective over the world. Raises SaveFailed, on all ranks, after too many failures."""
        assert not self.in_flight, "finish it first"
        self._final = step_folder(self._run.path, state.step)
        if self._agree(self._begin, "save.begin") is None:
            return
        self._training.optimizer.traffic.finish()  # gathers of parameters that are on their way
        weights, moments = self._pieces()
        if self._settings.background:
            weights, moments = self._copies(weights), self._copies(moments)
            reach("save.copied")
        else:
            weights, moments = _on_host(weights), _on_host(moments)
        self._writing = self._thread.submit(self._write, weights, moments, state)

    def finish(self) -> Path | None:
        """Publishes the save in flight; None if it failed. Collective over the world, waits.

        Raises SaveFailed, on all ranks, after too many failures in a row.
        """
        if self._writing is None:
            return None
        writing, self._writing = self._writing, None
        gathered = self._agree(lambda: [asdict(entry) for entry in writing.result()], "save.files")
        if gathered is None:
            return None
        files = tuple(FileEntry.from_json(value) for values in gathered for value in values)
        if self._agree(lambda: self._publish(files), "save.publish") is None:
            return None
        self.num_failures = 0
        if self._is_first:
            self._pruning = self._thread.submit(
                prune, self._run.path, self._settings.keep_last, remove_partial=True
            )
        return self._final

    def close(self) -> None:
        """Waits for what runs in the background on this rank."""
        self._end_pruning()
        self._thread.shutdown()

    def _begin(self) -> None:
        self._end_pruning()
        if self._is_first:
            begin(self._final)

    def _write(self, weights: Pieces, moments: Pieces, state: TrainingState) -> list[FileEntry]:
        partial, rank = partial_of(self._final), self._mesh.world.rank
        entries = write_files(partial, f"rank_{rank:04d}", weights)
        entries += write_files(partial, f"state_{rank:04d}", moments)
        if self._is_first:
            self._training.dataset.tokenizer.export(partial / TOKENIZER)
            reach("save.tokenizer_written")
            names = sorted(path.name for path in (partial / TOKENIZER).iterdir())
            entries += [describe(partial, f"{TOKENIZER}/{name}") for name in names]
            entries.append(write_training(partial, state.to_json()))
        return entries

    def _publish(self, files: tuple[FileEntry, ...]) -> None:
        if self._is_first:
            training = self._training
            dtype = str(DTYPES[training.config.train.compute_dtype]).removeprefix("torch.")
            step = int(self._final.name.removeprefix("step_"))
            publish(
                partial_of(self._final), self._final, Manifest(training.shape, dtype, files, step)
            )

    def _pieces(self) -> tuple[Pieces, Pieces]:
        training = self._training
        is_writer = self._mesh.data.rank == 0
        weights = weight_pieces(training) if is_writer else iter(())
        return weights, state_pieces(training.optimizer, training.shards)

    def _copies(self, pieces: Pieces) -> Pieces:
        """In memory that no step changes: copied on `dma`, and the next update waits for it."""
        copies = [(piece, self._copy(piece, tensor)) for piece, tensor in pieces]
        self._training.optimizer.hold([pending for _, pending in copies])
        return ((piece, _arrived(pending)) for piece, pending in copies)

    def _copy(self, piece: Piece, tensor: Tensor) -> Pending:
        name = f"checkpoint.{piece.name}"
        stream = self._training.runtime.streams["dma"]
        host = torch.empty(tensor.shape, dtype=tensor.dtype)
        return stream.submit(name, lambda collectives: collectives.copy(tensor, name, host))

    def _agree(self, action: Callable[[], Any], name: str) -> list[Any] | None:
        """Every rank's result, or None on all ranks if the action failed on one of them."""
        try:
            own = {"result": action()}
        except Exception as error:
            own = {"error": f"{type(error).__name__}: {getattr(error, 'what', error)}"}
        outcomes = gather_json(self._training.runtime, own, name)
        failed = {rank: own["error"] for rank, own in enumerate(outcomes) if "error" in own}
        if not failed:
            return [own["result"] for own in outcomes]
        self._failed(failed)
        return None

    def _failed(self, errors: dict[int, str]) -> None:
        self.num_failures += 1
        if self._is_first:
            shutil.rmtree(partial_of(self._final), ignore_errors=True)
        rank, reason = min(errors.items())
        what = f"{self._final.name} could not be saved: rank {rank}: {reason}"
        self._note(f"warning: {what} ({self.num_failures} in a row)")
        if self.num_failures >= self._settings.max_failures:
            if not self._is_first:
                raise Bystander(SaveFailed.exit_code)
            raise SaveFailed(
                f"{what}, and so {self.num_failures} times in a row",
                str(self._run.checkpoints),
                "mend the disk and start again: the run goes on from its last checkpoint",
            )

    def _end_pruning(self) -> None:
        if self._pruning is None:
            return
        pruning, self._pruning = self._pruning, None
        try:
            pruned = pruning.result()
        except OSError as error:
            self._note(f"warning: old checkpoints could not be deleted: {error}")
            return
        for path in pruned.damaged:
            self._note(f"warning: {path} is damaged (`ndtrain checkpoint verify` says where)")


def _arrived(pending: Pending) -> Tensor:
    pending.wait_until_ended()
    return pending.wait()


def _on_host(pieces: Pieces) -> Pieces:
    return ((piece, tensor.cpu()) for piece, tensor in pieces)


def weight_pieces(training: Training) -> Iterator[tuple[Piece, Tensor]]:
    """This rank's parameters without the slices that an earlier rank writes."""
    parameters: dict[str, Tensor] = {}
    for bucket in training.optimizer.buckets:
        values = readable(bucket.values)
        parameters |= {member.name: bucket.view(values, member) for member in bucket.members}
    for name, shard in training.shards.items():
        piece = first_copies(parameters[name], shard, training.runtime.mesh)
        if piece is not None:
            bounds, tensor = piece
            yield Piece(name, shard.dim, tuple(bounds)), tensor


def first_copies(
    local: Tensor, shard: Shard, mesh: Mesh
) -> tuple[list[tuple[int, int]], Tensor] | None:
    bounds, tensors, row = [], [], 0
    for part in shard.slices:
        # Copies lie on neighbouring tensor ranks.
        if mesh.tensor.rank % part.num_replicas == 0:
            bounds.append((part.start, part.stop))
            tensors.append(local.narrow(shard.dim, row, part.size))
        row += part.size
    if not tensors:
        return None
    return bounds, tensors[0] if len(tensors) == 1 else torch.cat(tensors, shard.dim)

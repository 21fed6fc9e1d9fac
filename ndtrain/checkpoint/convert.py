"""Between Hugging Face folders and ours, and from neuronx-distributed's checkpoints.

    import_folder(Path("Qwen3-0.6B"), Path("weights/qwen3"))
    export_folder(Path("runs/small"), Path("exported"))     # nxd_writer.export_nxd for the other

All need memory for one file, not for the model.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ndtrain.checkpoint.format import Manifest
from ndtrain.checkpoint.hugging_face import HuggingFaceFolder
from ndtrain.checkpoint.hugging_face_writer import MAX_SHARD_BYTES, write_folder
from ndtrain.checkpoint.nxd import KvCopies, NxdFolder
from ndtrain.checkpoint.nxd_files import find_model_folder
from ndtrain.checkpoint.nxd_optimizer import NxdOptimizer
from ndtrain.checkpoint.source import open_checkpoint
from ndtrain.checkpoint.writer import (
    MAX_FILE_BYTES,
    begin,
    copy_tokenizer,
    publish,
    write_files,
    write_rank,
)
from ndtrain.core.errors import UserError

_ROWS = 8192  # of the tied head compared at a time


def import_folder(
    source: Path,
    destination: Path,
    max_file_bytes: int = MAX_FILE_BYTES,
    kv_copies: KvCopies | None = None,
    with_optimizer: bool = False,
) -> None:
    """A folder of Hugging Face or neuronx-distributed -> a weights folder, values and dtypes kept.

    kv_copies: see NxdFolder. with_optimizer: neuronx-distributed's AdamW too, in fp32; a run takes
    it with optim.restore. Raises UserError for what HuggingFaceFolder and NxdFolder refuse, for
    values that are not finite, and for a tied model whose file has a head of its own.
    """
    folder = _open(source, kv_copies)
    optimizer = _open_optimizer(folder) if with_optimizer else None
    partial = begin(destination)
    try:
        if folder.has_tied_head:
            _check_tied_head(folder)
        files = write_rank(partial, 0, _finite_pieces(folder), max_file_bytes)
        if optimizer is not None:
            files += write_files(partial, "state_0000", optimizer.pieces(), max_file_bytes)
        files += copy_tokenizer(folder.folder, partial)
        notes = {"imported_from": source.name}
        step = optimizer.num_updates if optimizer else None
        publish(
            partial, destination, Manifest(folder.shape, folder.dtype, tuple(files), step, notes)
        )
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def export_folder(source: Path, destination: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """A checkpoint, or a run directory's newest one -> a Hugging Face folder.

    Raises UserError if the source is damaged or the destination is taken.
    """
    checkpoint = open_checkpoint(source)
    checkpoint.verify()
    write_folder(
        destination,
        checkpoint.shape,
        checkpoint.manifest.dtype,
        checkpoint.tensors(),
        checkpoint.tokenizer_folder,
        max_shard_bytes,
    )


def _open(source: Path, kv_copies: KvCopies | None) -> HuggingFaceFolder | NxdFolder:
    model_folder = find_model_folder(source)
    if model_folder is not None:
        return NxdFolder(model_folder, kv_copies)
    if kv_copies is not None:
        raise UserError(
            "--kv-copies is for checkpoints of neuronx-distributed",
            str(source),
            "leave it out: there are no files dp_rank_00_tp_rank_XX_pp_rank_00.pt",
        )
    return HuggingFaceFolder(source)


def _open_optimizer(folder: HuggingFaceFolder | NxdFolder) -> NxdOptimizer:
    if isinstance(folder, NxdFolder):
        return NxdOptimizer(folder)
    raise UserError(
        "--optimizer is for checkpoints of neuronx-distributed",
        str(folder.folder),
        "leave it out: a Hugging Face folder has weights alone",
    )


def _finite_pieces(
    folder: HuggingFaceFolder | NxdFolder,
) -> Iterator[tuple[str, int, Sequence[tuple[int, int]], Tensor]]:
    for name, tensor in folder.tensors():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"`{name}` has values that are not finite", str(folder.folder), "download it again"
            )
        yield name, 0, [(0, tensor.shape[0])], tensor


def _check_tied_head(folder: HuggingFaceFolder | NxdFolder) -> None:
    for start in range(0, folder.shape.vocab_size, _ROWS):
        stop = min(start + _ROWS, folder.shape.vocab_size)
        embedding = folder.read("embedding.weight", 0, [(start, stop)])
        if not torch.equal(embedding, folder.read_tied_head(start, stop)):
            raise UserError(
                "config.json ties the head to the embedding, but the file has another head",
                str(folder.folder),
                "set tie_word_embeddings to false if the head was trained on its own",
            )

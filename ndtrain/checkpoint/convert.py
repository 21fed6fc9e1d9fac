"""Between Hugging Face folders and ours.

    import_folder(Path("Qwen3-0.6B"), Path("weights/qwen3"))
    export_folder(Path("runs/small"), Path("exported"))

Both need memory for one file, not for the model.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ndtrain.checkpoint.format import Manifest
from ndtrain.checkpoint.hugging_face import HuggingFaceFolder
from ndtrain.checkpoint.hugging_face_writer import MAX_SHARD_BYTES, write_folder
from ndtrain.checkpoint.source import open_checkpoint
from ndtrain.checkpoint.writer import MAX_FILE_BYTES, begin, copy_tokenizer, publish, write_rank
from ndtrain.core.errors import UserError

_ROWS = 8192  # of the tied head compared at a time


def import_folder(source: Path, destination: Path, max_file_bytes: int = MAX_FILE_BYTES) -> None:
    """A Hugging Face folder -> a weights folder. Values and dtypes stay as they are.

    Raises UserError for what HuggingFaceFolder refuses, for values that are not finite, and for a
    tied model whose file has a head of its own.
    """
    folder = HuggingFaceFolder(source)
    partial = begin(destination)
    try:
        if folder.has_tied_head:
            _check_tied_head(folder)
        files = write_rank(partial, 0, _finite_pieces(folder), max_file_bytes)
        files += copy_tokenizer(source, partial)
        notes = {"imported_from": source.name}
        publish(
            partial, destination, Manifest(folder.shape, folder.dtype, tuple(files), None, notes)
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


def _finite_pieces(
    folder: HuggingFaceFolder,
) -> Iterator[tuple[str, int, Sequence[tuple[int, int]], Tensor]]:
    for name, tensor in folder.tensors():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"`{name}` has values that are not finite", str(folder.folder), "download it again"
            )
        yield name, 0, [(0, tensor.shape[0])], tensor


def _check_tied_head(folder: HuggingFaceFolder) -> None:
    for start in range(0, folder.shape.vocab_size, _ROWS):
        stop = min(start + _ROWS, folder.shape.vocab_size)
        embedding = folder.read("embedding.weight", 0, [(start, stop)])
        if not torch.equal(embedding, folder.read_tied_head(start, stop)):
            raise UserError(
                "config.json ties the head to the embedding, but the file has another head",
                str(folder.folder),
                "set tie_word_embeddings to false if the head was trained on its own",
            )

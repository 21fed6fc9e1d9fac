"""Writes a weights folder that is there as a whole or not at all.

    partial = begin(final)                                   # one rank
    files = write_rank(partial, rank, pieces)                # every rank that holds weights
    files += write_files(partial, "state_0000", state)       # (Piece, tensor), to train on
    files += copy_tokenizer(tokenizer_folder, partial)       # one rank
    publish(partial, final, Manifest(shape, dtype, tuple(all_files), step))   # one rank, at the end

Between the steps the ranks meet: `publish` needs the entries of all files, so gathering them is
the barrier. One rank alone renames: a rename that several ranks try is a race on shared disks.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ndtrain.checkpoint.format import (
    MANIFEST,
    TOKENIZER,
    TRAINING,
    FileEntry,
    Manifest,
    Piece,
)
from ndtrain.core.atomic import fsync_folder, sha256_of_file, write_json
from ndtrain.core.errors import UserError
from ndtrain.core.faults import reach

MAX_FILE_BYTES = 2 * 2**30

# What a tokenizer may consist of; generation_config.json says which tokens end a text.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)


def partial_of(final: Path) -> Path:
    return final.with_name(final.name + ".partial")


def require_free(destination: Path) -> None:
    """Refuses a destination that is anything but absent or an empty folder."""
    if destination.is_symlink() or (
        destination.exists() and (not destination.is_dir() or any(destination.iterdir()))
    ):
        raise UserError(
            "the destination exists already",
            str(destination),
            "choose another one, or move it away: nothing is overwritten",
        )


def begin(final: Path) -> Path:
    """Makes the empty folder that will become `final`; what a killed save left there goes."""
    require_free(final)
    partial = partial_of(final)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    reach("save.begun")
    return partial


def write_rank(
    folder: Path,
    rank: int,
    pieces: Iterable[tuple[str, int, Sequence[tuple[int, int]], Tensor]],
    max_file_bytes: int = MAX_FILE_BYTES,
) -> list[FileEntry]:
    """Writes this rank's weights (name, dim, slices, tensor), durably; returns its files.

    Of what several ranks hold, one of them has to pass it.
    """
    described = (
        (Piece(name, dim, tuple((start, stop) for start, stop in slices)), tensor)
        for name, dim, slices, tensor in pieces
    )
    return write_files(folder, f"rank_{rank:04d}", described, max_file_bytes)


def write_files(
    folder: Path,
    prefix: str,
    pieces: Iterable[tuple[Piece, Tensor]],
    max_file_bytes: int = MAX_FILE_BYTES,
) -> list[FileEntry]:
    """Writes pieces to `prefix_000.safetensors` and so on, durably; returns these files.

    Pieces are taken one after the other, so an iterator needs memory for one file at a time.
    """
    entries: list[FileEntry] = []
    tensors: dict[str, Tensor] = {}
    described: list[Piece] = []

    def flush() -> None:
        path = folder / f"{prefix}_{len(entries):03d}.safetensors"
        reach("save.before_file")
        save_durably(tensors, path)
        reach("save.file_written")
        entries.append(describe(folder, path.name, described))
        tensors.clear()
        described.clear()

    num_bytes = 0
    for piece, tensor in pieces:
        held = sum(stop - start for start, stop in (piece.flat and [piece.flat]) or piece.slices)
        assert tensor.shape[0 if piece.flat else piece.dim] == held, piece
        if tensors and num_bytes + tensor.nbytes > max_file_bytes:
            flush()
            num_bytes = 0
        tensors[piece.key] = tensor.detach().contiguous()
        described.append(piece)
        num_bytes += tensor.nbytes
    if tensors:
        flush()
    return entries


def save_durably(tensors: dict[str, Tensor], path: Path) -> None:
    """A safetensors file whose bytes are on the disk when this returns."""
    save_file(tensors, path, metadata={"format": "pt"})
    fsync_file(path)


def fsync_file(path: Path) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def describe(folder: Path, name: str, pieces: Iterable[Piece] = ()) -> FileEntry:
    path = folder / name
    return FileEntry(name, path.stat().st_size, sha256_of_file(path), tuple(pieces))


def copy_tokenizer(source: Path, folder: Path) -> list[FileEntry]:
    """Copies the tokenizer's files that `source` has to `folder/tokenizer`."""
    copied = copy_tokenizer_files(source, folder / TOKENIZER)
    return [describe(folder, f"{TOKENIZER}/{name}") for name in copied]


def copy_tokenizer_files(source: Path, destination: Path) -> list[str]:
    names = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if names:
        destination.mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, destination / name)
        fsync_file(destination / name)
    return names


def write_training(folder: Path, training: dict[str, Any]) -> FileEntry:
    """What resuming needs and is no tensor, as JSON."""
    write_json(folder / TRAINING, training)
    reach("save.training_written")
    return describe(folder, TRAINING)


def publish(partial: Path, final: Path, manifest: Manifest) -> None:
    """Writes the manifest and renames the folder. Raises UserError if `final` is taken."""
    for entry in manifest.files:
        assert (partial / entry.name).stat().st_size == entry.num_bytes, entry.name
    require_free(final)
    reach("save.before_manifest")
    write_json(partial / MANIFEST, manifest.to_json())
    reach("save.before_rename")
    rename_folder(partial, final)
    reach("save.published")


def rename_folder(partial: Path, final: Path) -> None:
    """Makes a complete folder appear under its name, durably."""
    for folder in (path for path in partial.iterdir() if path.is_dir()):
        fsync_folder(folder)
    fsync_folder(partial)
    os.rename(partial, final)  # onto an empty folder too; onto a full one it fails
    reach("save.renamed")
    fsync_folder(final.parent)

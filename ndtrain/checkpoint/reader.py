"""Reads a weights folder that any layout wrote.

checkpoint = Checkpoint(folder)
checkpoint.shape, checkpoint.manifest.step
checkpoint.read("layers.0.mlp.down.weight", dim=1, slices=[(0, 128)])
checkpoint.training()                         # what `training.json` says
checkpoint.state.read_flat(FIRST_MOMENT, ...)  # see state.py
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ndtrain.checkpoint.assemble import SafetensorsFiles, Stored, assemble
from ndtrain.checkpoint.format import (
    MANIFEST,
    TOKENIZER,
    TRAINING,
    WEIGHT,
    FileEntry,
    Manifest,
)
from ndtrain.checkpoint.state import OptimizerState
from ndtrain.core.atomic import sha256_of_file
from ndtrain.core.errors import UserError, UserErrors
from ndtrain.models.qwen3.hugging_face import parameter_shapes
from ndtrain.models.qwen3.shape import Shape


class Checkpoint:
    """A complete weights folder. Raises UserError for anything in it that is not as it should be.

    A file's hash is compared when the file is first read, so a rank pays for the files it reads;
    is_verified: this has been done already.
    """

    def __init__(self, folder: Path, is_verified: bool = False) -> None:
        self.folder = folder
        self.manifest = Manifest.load(folder)
        self._entries = {folder / entry.name: entry for entry in self.manifest.files}

        def check(path: Path) -> None:
            if not is_verified:
                verify_file(path, self._entries[path])

        self._check = check
        self._files = SafetensorsFiles(check)
        self._shapes = parameter_shapes(self.shape)
        self._stored = self._index()

    @property
    def shape(self) -> Shape:
        return self.manifest.shape

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer's files lie; None if the folder has none."""
        folder = self.folder / TOKENIZER
        return folder if folder.is_dir() else None

    def read(
        self, name: str, dim: int | None = None, slices: Sequence[tuple[int, int]] | None = None
    ) -> Tensor:
        """Our parameter `name`, or its slices along dim one after the other; stored dtype."""
        return assemble(self._files, self._stored[name], self._shapes[name], dim, slices)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter whole, one at a time, in the model's order."""
        for name in self._shapes:
            yield name, self.read(name)

    @cached_property
    def state(self) -> OptimizerState:
        """Master weights and moments. Raises UserError if their pieces do not fit together."""
        pieces = [
            (path, piece)
            for path, entry in self._entries.items()
            for piece in entry.pieces
            if piece.kind != WEIGHT
        ]
        return OptimizerState(self._files, pieces, self._shapes, self._damaged)

    def training(self) -> dict[str, Any]:
        """Raises UserError for a folder that no run saved: training cannot go on from it."""
        path = self.folder / TRAINING
        if path not in self._entries:
            raise UserError(
                "these are weights that no run saved: there is no data position to go on from",
                str(self.folder),
                f"start a new run: model.weights={self.folder}, and optim.restore=true if they"
                " were imported with --optimizer",
            )
        self._check(path)
        return json.loads(path.read_bytes())

    def verify(self, part: int = 0, num_parts: int = 1) -> None:
        """Compares files with their hashes, the tokenizer's too; names all that differ.

        Of num_parts callers that share the work, each takes another part.
        """
        errors = []
        for path, entry in list(self._entries.items())[part::num_parts]:
            try:
                verify_file(path, entry)
            except UserError as error:
                errors.append(error)
        if errors:
            raise UserErrors(errors)

    def _index(self) -> dict[str, list[Stored]]:
        """Where each parameter lies; that its pieces cover it, once."""
        stored: dict[str, list[Stored]] = defaultdict(list)
        for path, entry in self._entries.items():
            for piece in entry.pieces:
                if piece.kind == WEIGHT:
                    stored[piece.name].append(Stored(path, piece.key, piece.dim, piece.slices))
        missing = self._shapes.keys() - stored.keys()
        unexpected = stored.keys() - self._shapes.keys()
        for what, names in (("missing", missing), ("not of this shape", unexpected)):
            if names:
                raise self._damaged(f"{', '.join(sorted(names))}: {what}")
        for name, pieces in stored.items():
            dims = {piece.dim for piece in pieces}
            if len(dims) != 1 or not 0 <= min(dims) < len(self._shapes[name]):
                raise self._damaged(f"the pieces of `{name}` cut dims {sorted(dims)}")
            bounds = sorted(part for piece in pieces for part in piece.slices)
            size = self._shapes[name][dims.pop()]
            edges = [0, *[stop for _, stop in bounds]]
            if edges != [*[start for start, _ in bounds], size]:
                raise self._damaged(f"the pieces of `{name}` overlap or leave gaps: {bounds}")
        return dict(stored)

    def _damaged(self, what: str) -> UserError:
        where = str(self.folder / MANIFEST)
        return UserError(what, where, "take another checkpoint: this one is damaged")


def verify_file(path: Path, entry: FileEntry) -> None:
    """Raises UserError if the file's hash is another than the manifest's."""
    if sha256_of_file(path) != entry.sha256:
        raise UserError(
            f"`{entry.name}` is damaged: its SHA-256 is not that of the manifest",
            str(path),
            "restore the file, or take another checkpoint",
        )

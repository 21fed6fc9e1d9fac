"""Reads a weights folder that any layout wrote.

checkpoint = Checkpoint(folder)
checkpoint.shape, checkpoint.manifest.step
checkpoint.read("layers.0.mlp.down.weight", dim=1, slices=[(0, 128)])
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from ndtrain.checkpoint.assemble import SafetensorsFiles, Stored, assemble
from ndtrain.checkpoint.format import MANIFEST, TOKENIZER, FileEntry, Manifest
from ndtrain.core.atomic import sha256_of_file
from ndtrain.core.errors import UserError, UserErrors
from ndtrain.models.qwen3.hugging_face import parameter_shapes
from ndtrain.models.qwen3.shape import Shape


class Checkpoint:
    """A complete weights folder. Raises UserError for anything in it that is not as it should be.

    A file's hash is compared when the file is first read, so a rank pays for the files it reads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.load(folder)
        self._entries = {folder / entry.name: entry for entry in self.manifest.files}
        self._files = SafetensorsFiles(lambda path: _verify(path, self._entries[path]))
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

    def verify(self) -> None:
        """Compares every file with its hash, the tokenizer's too; names all that differ."""
        errors = []
        for path, entry in self._entries.items():
            try:
                _verify(path, entry)
            except UserError as error:
                errors.append(error)
        if errors:
            raise UserErrors(errors)

    def _index(self) -> dict[str, list[Stored]]:
        """Where each parameter lies; that its pieces cover it, once."""
        stored: dict[str, list[Stored]] = defaultdict(list)
        for path, entry in self._entries.items():
            for piece in entry.pieces:
                stored[piece.name].append(Stored(path, piece.name, piece.dim, piece.slices))
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


def _verify(path: Path, entry: FileEntry) -> None:
    if sha256_of_file(path) != entry.sha256:
        raise UserError(
            f"`{entry.name}` is damaged: its SHA-256 is not that of the manifest",
            str(path),
            "restore the file, or take another checkpoint",
        )

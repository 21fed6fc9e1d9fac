"""What a source of documents is, and how glob patterns become a list of files.

A source knows its files without reading them, so that a cached encoding is found by their
identity alone. `documents` streams: memory is bounded by the largest document.
"""

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ndtrain.config.schema import Data
from ndtrain.core.errors import UserError, UserErrors

MEGABYTE = 10**6
Format = Literal["text", "chat"]


class Document(NamedTuple):
    """One document: a text, or a conversation that is already rendered."""

    text: str
    counted: tuple[tuple[int, int], ...] | None = None
    """Character spans [begin, end) that the loss counts; None: everything."""


class SourceFile(NamedTuple):
    path: Path
    size: int  # bytes
    mtime_ns: int


class Source(ABC):
    """Files that yield documents of one format."""

    def __init__(self, files: Sequence[SourceFile], max_bytes: int | None) -> None:
        self.files = tuple(files)
        self.max_bytes = max_bytes

    @property
    def format(self) -> Format:
        return "text"

    @abstractmethod
    def documents(self, remarks: list[str]) -> Iterator[Document]:
        """Yields every document once. What was left out is said in `remarks`, at the end.

        Raises UserError, with the place, for what cannot be read.
        """

    def identity(self) -> dict[str, Any]:
        """JSON-able; changes whenever the documents may have changed."""
        return {
            "source": type(self).__name__,
            "files": [[str(file.path), file.size, file.mtime_ns] for file in self.files],
            "max_bytes": self.max_bytes,
        }

    def num_bytes(self) -> int:
        """Bytes that will be read, by the sizes of the files."""
        total = sum(file.size for file in self.files)
        return total if self.max_bytes is None else min(total, self.max_bytes)

    def describe(self) -> str:
        plural = "" if len(self.files) == 1 else "s"
        return f"{len(self.files)} file{plural}, {self.num_bytes() / MEGABYTE:.1f} MB"


def hash_of_text(text: str) -> int:
    """64 bits that depend on the text alone, the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def byte_limit(data: Data) -> int | None:
    return None if data.max_megabytes is None else int(data.max_megabytes * MEGABYTE)


def source_file(path: Path) -> SourceFile:
    status = path.stat()
    return SourceFile(path, status.st_size, status.st_mtime_ns)


def files_of_patterns(patterns: Sequence[str], source: str) -> list[SourceFile]:
    """The files that the glob patterns match, each once, by path.

    Raises UserError without patterns, and UserErrors naming every pattern that matches no file.
    """
    if not patterns:
        raise UserError(
            f"data.source={source} needs files",
            where="data.paths",
            help="give glob patterns, e.g. data.paths=['corpus/**/*.txt']",
        )
    paths: set[Path] = set()
    errors: list[UserError] = []
    for pattern in patterns:
        matches = glob.glob(os.path.expanduser(pattern), recursive=True)
        found = {Path(match).absolute() for match in matches if os.path.isfile(match)}
        if not found:
            what = f"no file matches `{pattern}`"
            errors.append(UserError(what, "data.paths", f"relative to {os.getcwd()}"))
        paths |= found
    if errors:
        raise errors[0] if len(errors) == 1 else UserErrors(errors)
    return [source_file(path) for path in sorted(paths)]

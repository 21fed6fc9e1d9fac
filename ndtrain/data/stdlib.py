"""The Python standard library's own sources: text that every machine has.

Which files are taken depends on their names and sizes alone: they are ordered by the hash of their
relative path and taken while they fit. So a sample is spread over all packages, and does not
depend on the order in which a file system lists them.
"""

import io
import os
import sysconfig
import tokenize
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from ndtrain.core.errors import UserError
from ndtrain.data.sources import MEGABYTE, Document, Source, SourceFile, source_file

# Tests are excluded because much of them is tables and generated text; the package folders
# because what a user has installed there must not change the data.
EXCLUDED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
)
MAX_NAMES = 5  # names of left-out files in one remark


class StdlibSource(Source):
    """`root` is for tests; by default the standard library of this interpreter."""

    def __init__(self, max_bytes: int | None, root: Path | None = None) -> None:
        self.root = Path(sysconfig.get_path("stdlib")) if root is None else root
        super().__init__(sample(self.root, max_bytes), max_bytes)

    def documents(self, remarks: list[str]) -> Iterator[Document]:
        undecodable = []
        num_empty = 0
        for file in self.files:
            try:
                text = decode_source(file.path.read_bytes())
            except (SyntaxError, UnicodeDecodeError):
                undecodable.append(str(file.path.relative_to(self.root)))
                continue
            if text:
                yield Document(text)
            else:
                num_empty += 1
        if num_empty:
            remarks.append(f"{num_empty} empty files left out")
        if undecodable:
            names = ", ".join(undecodable[:MAX_NAMES])
            more = ", ..." if len(undecodable) > MAX_NAMES else ""
            remarks.append(f"{len(undecodable)} undecodable files left out: {names}{more}")


def decode_source(content: bytes) -> str:
    """Text of a Python file, decoded by its PEP 263 cookie or byte-order mark, else as UTF-8.

    Raises SyntaxError for an unknown or contradictory encoding, UnicodeDecodeError for bytes that
    are not in the encoding.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return content.decode(encoding)


def sample(root: Path, max_bytes: int | None) -> list[SourceFile]:
    """Python files below `root` in hash order; one that would exceed `max_bytes` is passed over."""
    chosen: list[SourceFile] = []
    total = 0
    for name in sorted(_python_files(root), key=_hash_of_name):
        file = source_file(root / name)
        if max_bytes is not None and total + file.size > max_bytes:
            continue
        chosen.append(file)
        total += file.size
    if not total:
        limit = "" if max_bytes is None else f" within {max_bytes / MEGABYTE:g} MB"
        raise UserError(
            f"no Python source found in {root}{limit}",
            where="data.source=stdlib",
            help="raise data.max_megabytes, or use data.source=text with data.paths",
        )
    return chosen


def _python_files(root: Path) -> Iterator[str]:
    """Paths relative to `root`, with `/`."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in EXCLUDED_FOLDERS]
        relative = Path(folder).relative_to(root)
        yield from ((relative / name).as_posix() for name in files if name.endswith(".py"))


def _hash_of_name(name: str) -> bytes:
    return blake2b(name.encode("utf-8", "surrogateescape")).digest()

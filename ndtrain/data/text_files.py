"""Plain text files, one document a file, in the order of their paths."""

from collections.abc import Iterator, Sequence

from ndtrain.core.errors import UserError
from ndtrain.data.sources import MEGABYTE, Document, Source, SourceFile, files_of_patterns


class TextSource(Source):
    """UTF-8 files; a file that is not UTF-8 is refused with the place of the first bad byte."""

    def __init__(self, patterns: Sequence[str], max_bytes: int | None) -> None:
        super().__init__(files_of_patterns(patterns, "text"), max_bytes)

    def documents(self, remarks: list[str]) -> Iterator[Document]:
        left = self.max_bytes
        num_empty = 0
        for index, file in enumerate(self.files):
            if left is not None and left <= 0:
                num_unread = len(self.files) - index
                remarks.append(f"{num_unread} files not read: data.max_megabytes")
                break
            content = file.path.read_bytes()
            if left is not None:
                if len(content) > left:
                    content = cut_at_line(content, left)
                    remarks.append(
                        f"{file.path} cut to {len(content) / MEGABYTE:.1f} MB: data.max_megabytes"
                    )
                    left = 0
                left -= len(content)
            text = _decode(content, file)
            if text:
                yield Document(text)
            else:
                num_empty += 1
        if num_empty:
            remarks.append(f"{num_empty} empty files left out")


def cut_at_line(content: bytes, limit: int) -> bytes:
    """At most `limit` bytes: whole lines if there is a line end, else whole UTF-8 characters."""
    line_end = content.rfind(b"\n", 0, limit)
    if line_end >= 0:
        return content[: line_end + 1]
    while limit > 0 and content[limit] & 0xC0 == 0x80:  # inside a character
        limit -= 1
    return content[:limit]


def _decode(content: bytes, file: SourceFile) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}",
            where=f"{file.path}:{line}",
            help="convert the file, e.g. with `iconv -t UTF-8`, or leave it out of data.paths",
        ) from None

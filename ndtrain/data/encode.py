"""Documents into flat files of tokens: what a dataset maps into memory.

    tokens.bin    ids of all documents, one after the other; uint16, or uint32 above 65536 tokens
    offsets.bin   int64: where each document begins, and the total; one more than documents
    hashes.bin    uint64: hash of each document's text
    counted.bin   chat with train_on=assistant only: one bit a token, little-endian bit order

A text ends with <|endoftext|>; a conversation is exactly what the chat template renders.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ndtrain.data.sources import Document, Format, hash_of_text
from ndtrain.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

LAYOUT = 1  # raise it when the files change meaning: it is part of the cache key
BATCH_CHARACTERS = 2**20  # encoded at a time: enough for all cores, small beside the library
# A text longer than this is encoded in pieces: that bounds the library's memory, lets threads share
# a document, and was 15% faster than whole files of Python source.
PIECE_CHARACTERS = 2**12


def encode_documents(
    documents: Iterable[Document], tokenizer: Tokenizer, format: Format, folder: Path
) -> dict[str, Any]:
    """Writes the files above; returns the counts and the content's fingerprint.

    Memory is bounded by the batch and the largest document, apart from 16 bytes for each document.
    """
    if format == "chat":
        tokenizer.require_chat()
    writer = _Writer(folder, tokenizer, format)
    try:
        for batch in _batches(documents):
            writer.add(batch)
    finally:
        writer.close()
    return writer.finish()


class _Writer:
    def __init__(self, folder: Path, tokenizer: Tokenizer, format: Format) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.format = format
        self.dtype = np.dtype("<u2" if tokenizer.size <= 2**16 else "<u4")
        self.offsets = array("q", [0])
        self.hashes = array("Q")
        self.digest = blake2b(tokenizer.sha256.encode(), digest_size=16)
        self.num_characters = 0
        self.tokens = open(folder / "tokens.bin", "wb")  # noqa: SIM115 (closed by close())
        self.counted: _BitStream | None = None

    def close(self) -> None:
        self.tokens.close()
        if self.counted is not None:
            self.counted.close()

    def add(self, batch: Sequence[Document]) -> None:
        is_text = self.format == "text"
        groups = [_pieces(document.text) if is_text else [document.text] for document in batch]
        texts = [piece for group in groups for piece in group]
        encodings = iter(self.tokenizer.encode_batch(texts, literal=is_text))
        for document, group in zip(batch, groups, strict=True):
            self._write(document, [next(encodings) for _ in group])

    def _write(self, document: Document, encoded: "list[tokenizers.Encoding]") -> None:
        ids = [token for encoding in encoded for token in encoding.ids]
        if self.format == "text":
            ids.append(self.tokenizer.end_of_document_id)
        content = np.asarray(ids, dtype=self.dtype).tobytes()
        self.tokens.write(content)
        self.digest.update(content)
        self.offsets.append(self.offsets[-1] + len(ids))
        self.hashes.append(hash_of_text(document.text))
        self.num_characters += len(document.text)
        if document.counted is not None:
            if self.counted is None:
                self.counted = _BitStream(self.folder / "counted.bin")
            mask = counted_tokens(encoded[0].offsets, document.counted)
            self.counted.write(mask)
            self.digest.update(np.packbits(mask).tobytes())

    def finish(self) -> dict[str, Any]:
        offsets = np.asarray(self.offsets, dtype="<i8")
        offsets.tofile(self.folder / "offsets.bin")
        np.asarray(self.hashes, dtype="<u8").tofile(self.folder / "hashes.bin")
        self.digest.update(offsets.tobytes())
        return {
            "layout": LAYOUT,
            "format": self.format,
            "dtype": self.dtype.str,
            "num_documents": len(self.hashes),
            "num_tokens": self.offsets[-1],
            "num_characters": self.num_characters,
            "tokenizer_size": self.tokenizer.size,
            "end_of_document_id": self.tokenizer.end_of_document_id,
            "fingerprint": self.digest.hexdigest(),
        }


class _BitStream:
    """Appends booleans to a file, eight to a byte; the last byte is filled with zeros."""

    def __init__(self, path: Path) -> None:
        self.stream: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by close())
        self.rest = np.zeros(0, dtype=bool)

    def write(self, bits: np.ndarray) -> None:
        bits = np.concatenate([self.rest, bits])
        whole = len(bits) // 8 * 8
        self.stream.write(np.packbits(bits[:whole], bitorder="little").tobytes())
        self.rest = bits[whole:]

    def close(self) -> None:
        self.stream.write(np.packbits(self.rest, bitorder="little").tobytes())
        self.rest = self.rest[:0]
        self.stream.close()


def counted_tokens(
    offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Boolean per token: whether it begins inside one of the character spans [begin, end).

    A token that straddles the beginning of a span also spells the prompt, and is not counted.
    """
    begins = np.asarray([begin for begin, _ in offsets], dtype=np.int64)
    if not spans:
        return np.zeros(len(begins), dtype=bool)
    span_begins, span_ends = np.asarray(spans, dtype=np.int64).T
    span = np.searchsorted(span_begins, begins, side="right") - 1  # the last that has begun
    return (span >= 0) & (begins < span_ends[span])


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    num_characters = 0
    for document in documents:
        batch.append(document)
        num_characters += len(document.text)
        if num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> list[str]:
    """`text` in pieces that encode as the whole does: cut between a line end and a letter.

    Every splitting rule of the GPT-2 family, Qwen's included, ends a unit between a newline and a
    following letter. Without such a place the piece grows.
    """
    pieces = []
    begin = 0
    while len(text) - begin > PIECE_CHARACTERS:
        end = begin + PIECE_CHARACTERS
        while end < len(text) and not (text[end - 1] == "\n" and text[end].isalpha()):
            end = text.find("\n", end) + 1 or len(text)
        pieces.append(text[begin:end])
        begin = end
    if begin < len(text):
        pieces.append(text[begin:])
    return pieces

"""An encoded corpus: tokens mapped into memory, and which documents are held out.

dataset.tokens_of(7, 0, 10)     # the first ten tokens of document 7
dataset.train, dataset.held_out  # ids of the documents on either side
"""

from pathlib import Path
from typing import Any

import numpy as np

from ndtrain.core.errors import UserError
from ndtrain.data.sources import Format
from ndtrain.data.tokenizer import Tokenizer


class Dataset:
    """Read-only. Any number of processes may open one folder.

    num_documents, num_tokens: of both sides together.
    fingerprint: hash of tokenizer, tokens, document edges and loss mask. Equal fingerprints mean
        equal data, also on machines that encoded it independently.
    end_of_document_id: ends every text; also fills what is left of a padded row.
    """

    def __init__(
        self, folder: Path, meta: dict[str, Any], tokenizer: Tokenizer, held_out_fraction: float
    ) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.format: Format = meta["format"]
        self.num_documents: int = meta["num_documents"]
        self.num_tokens: int = meta["num_tokens"]
        self.fingerprint: str = meta["fingerprint"]
        self.end_of_document_id: int = meta["end_of_document_id"]
        self._tokens = np.memmap(folder / "tokens.bin", dtype=meta["dtype"], mode="r")
        self._offsets = np.fromfile(folder / "offsets.bin", dtype="<i8")
        self._counted: np.ndarray | None = None
        if (folder / "counted.bin").is_file():
            self._counted = np.memmap(folder / "counted.bin", dtype=np.uint8, mode="r")
        self.lengths = np.diff(self._offsets)
        """int64, tokens of each document."""
        hashes = np.fromfile(folder / "hashes.bin", dtype="<u8")
        self.train, self.held_out = split_by_hash(hashes, held_out_fraction)

    def tokens_of(self, document: int, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end) of a document, in the dtype of the file."""
        offset = self._offsets[document]
        return self._tokens[offset + begin : offset + end]

    def counted_of(self, document: int, begin: int, end: int) -> np.ndarray:
        """bool per token of [begin, end): whether the loss counts its prediction."""
        if self._counted is None:
            return np.ones(end - begin, dtype=bool)
        first = int(self._offsets[document]) + begin
        last = first + end - begin
        window = self._counted[first // 8 : (last + 7) // 8]
        bits = np.unpackbits(window, bitorder="little")
        return bits[first % 8 : first % 8 + end - begin].astype(bool)


def split_by_hash(hashes: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the training and of the held-out documents, both ascending, int64.

    A document is held out if its hash, read as a number in [0, 1), is below `fraction`; so its side
    does not change when others are added, and copies of a text are never on both sides. Where that
    would leave a side empty, the smallest (or largest) hash is moved to it. Raises UserError when
    there are not two different documents to split.
    """
    if fraction == 0:
        return np.arange(len(hashes)), np.zeros(0, dtype=np.int64)
    smallest, largest = hashes.min(), hashes.max()
    if smallest == largest:
        what = "one document" if len(hashes) == 1 else f"{len(hashes)} identical documents"
        raise UserError(
            f"{what} cannot be split into training and held-out data",
            where="data.held_out_fraction",
            help="give more documents, or data.held_out_fraction=0 (and train.eval_every=0)",
        )
    # In 64-bit integers: a float threshold would round differently from one platform to another.
    threshold = np.uint64(int(fraction * 2**64))
    held_out = hashes < threshold
    held_out |= hashes == smallest
    held_out &= hashes != largest
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)

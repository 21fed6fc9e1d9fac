"""A dataset of given lengths whose tokens are all different: token t is the t-th of the corpus."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings

from ndtrain.data.dataset import Dataset
from ndtrain.data.sources import Format
from ndtrain.data.tokenizer import Tokenizer

PADDING = 10**6

# The same examples each time, none of them timed. One folder serves all examples of a test: it is
# rewritten, and no example reads the data of another.
properties = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def make_dataset(
    folder: Path,
    lengths: Sequence[int],
    format: Format = "text",
    counted: Sequence[bool] | None = None,
    held_out_fraction: float = 0.0,
) -> Dataset:
    """counted: one flag a token, over all documents; None: no loss mask."""
    folder.mkdir(parents=True, exist_ok=True)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    offsets.astype("<i8").tofile(folder / "offsets.bin")
    np.arange(offsets[-1], dtype="<u4").tofile(folder / "tokens.bin")
    # Spread over 64 bits, so that the share that is held out is about the fraction.
    hashes = np.random.default_rng(0).integers(0, 2**64, len(lengths), dtype=np.uint64)
    hashes.astype("<u8").tofile(folder / "hashes.bin")
    (folder / "counted.bin").unlink(missing_ok=True)
    if counted is not None:
        np.packbits(np.asarray(counted, bool), bitorder="little").tofile(folder / "counted.bin")
    meta = {
        "format": format,
        "dtype": "<u4",
        "num_documents": len(lengths),
        "num_tokens": int(offsets[-1]),
        "fingerprint": "synthetic",
        "end_of_document_id": PADDING,
    }
    return Dataset(folder, meta, Tokenizer(folder, {}), held_out_fraction)

"""Rows of pieces into the arrays that a step needs.

Shapes: B rows, S sequence_length.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ndtrain.data.dataset import Dataset
from ndtrain.data.pack import Piece

IGNORED_TARGET = -100  # what torch's cross-entropy ignores by default


class Batch(NamedTuple):
    """One micro-batch.

    tokens_BS: int64, inputs.
    targets_BS: int64, the next token; -100 where the loss does not count it: prompts of a chat,
        padding and, under a document mask, the first token of the next document (which
        <|endoftext|> would have to guess).
    positions_BS: int64, for RoPE: distance from starts_BS, or 0..S-1 without a document mask.
    starts_BS: int32, index in the row of the first token of the token's own document: query i
        may attend to key j iff starts[i] <= j <= i. None without a document mask: causal only.
    """

    tokens_BS: np.ndarray
    targets_BS: np.ndarray
    positions_BS: np.ndarray
    starts_BS: np.ndarray | None


class Row(NamedTuple):
    """S + 1 tokens before they are shifted against each other."""

    tokens: np.ndarray  # int64 [S + 1]
    starts: np.ndarray  # int32 [S + 1], padding is a document of its own
    counted: np.ndarray  # bool [S + 1]; entry 0 is the target of no token in this row


def make_batch(
    dataset: Dataset, rows: Sequence[Sequence[Piece]], sequence_length: int, document_mask: bool
) -> Batch:
    filled = [fill_row(dataset, pieces, sequence_length, document_mask) for pieces in rows]
    tokens = np.stack([row.tokens for row in filled])
    counted = np.stack([row.counted for row in filled])
    targets_BS = np.where(counted[:, 1:], tokens[:, 1:], IGNORED_TARGET)
    positions_BS = np.broadcast_to(np.arange(sequence_length), targets_BS.shape)
    starts_BS = None
    if document_mask:
        starts_BS = np.stack([row.starts[:-1] for row in filled])
        positions_BS = positions_BS - starts_BS
    return Batch(
        np.ascontiguousarray(tokens[:, :-1]), targets_BS, positions_BS.astype(np.int64), starts_BS
    )


def fill_row(
    dataset: Dataset, pieces: Sequence[Piece], sequence_length: int, document_mask: bool
) -> Row:
    tokens = np.full(sequence_length + 1, dataset.end_of_document_id, dtype=np.int64)
    starts = np.empty(sequence_length + 1, dtype=np.int32)
    column = 0
    for piece in pieces:
        stop = column + piece.end - piece.begin
        tokens[column:stop] = dataset.tokens_of(*piece)
        starts[column:stop] = column
        column = stop
    starts[column:] = column
    counted = counted_row(dataset, pieces, sequence_length, document_mask)
    return Row(tokens, starts, counted)


def counted_row(
    dataset: Dataset, pieces: Sequence[Piece], sequence_length: int, document_mask: bool
) -> np.ndarray:
    """bool [S + 1]: whether the loss counts the prediction of the token. Reads no token."""
    counted = np.zeros(sequence_length + 1, dtype=bool)
    column = 0
    for piece in pieces:
        stop = column + piece.end - piece.begin
        counted[column:stop] = dataset.counted_of(*piece)
        if document_mask and piece.begin == 0:
            counted[column] = False
        column = stop
    return counted


def count_targets(
    dataset: Dataset,
    rows: Sequence[Sequence[Piece]],
    sequence_length: int,
    document_mask: bool,
) -> int:
    """How many entries of `targets_BS` are not -100, without making the batch."""
    return sum(
        int(counted_row(dataset, pieces, sequence_length, document_mask)[1:].sum())
        for pieces in rows
    )

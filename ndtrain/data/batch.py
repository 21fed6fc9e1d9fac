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
    """S + 1 tokens, before inputs and targets are cut out of them."""

    tokens: np.ndarray  # int64 [S + 1]
    starts: np.ndarray  # int32 [S + 1], as starts_BS; padding is a document of its own
    counted: np.ndarray  # bool [S + 1], targets that the loss counts; entry 0 is no target
    num_filled: int  # the rest is padding


def make_batch(rows: Sequence[Row], document_mask: bool) -> Batch:
    tokens = np.stack([row.tokens for row in rows])
    counted = np.stack([row.counted for row in rows])
    starts_BS = np.stack([row.starts[:-1] for row in rows])
    positions_BS = np.broadcast_to(np.arange(starts_BS.shape[1], dtype=np.int64), starts_BS.shape)
    return Batch(
        tokens_BS=np.ascontiguousarray(tokens[:, :-1]),
        targets_BS=np.where(counted[:, 1:], tokens[:, 1:], IGNORED_TARGET),
        positions_BS=positions_BS - starts_BS if document_mask else positions_BS.copy(),
        starts_BS=starts_BS if document_mask else None,
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
    return Row(tokens, starts, counted, num_filled=column)


def counted_row(
    dataset: Dataset, pieces: Sequence[Piece], sequence_length: int, document_mask: bool
) -> np.ndarray:
    """`Row.counted` alone: reads no token, so that every rank can count the others' targets."""
    counted = np.zeros(sequence_length + 1, dtype=bool)
    column = 0
    for piece in pieces:
        stop = column + piece.end - piece.begin
        counted[column:stop] = dataset.counted_of(*piece)
        if document_mask and piece.begin == 0:
            counted[column] = False
        column = stop
    counted[0] = False
    return counted

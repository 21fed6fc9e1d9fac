"""Which pieces of which documents make up row r of epoch e. Lengths only: no token is read.

A row is `sequence_length + 1` tokens: as inputs all but the last, as targets all but the first.

Text (`TextRows`): the documents of an epoch, in its order, then those of the next, and so on, are
one endless stream; row g of the whole run starts at token g * sequence_length of it. So every
token is a target once an epoch, and nothing is dropped or padded: the row at an epoch's edge
continues into the next epoch and belongs to the epoch in which it starts.

Chat (`ConversationRows`): conversations are never split. They fill rows by next-fit in the order of
the epoch; the last row of an epoch stays partly empty. A conversation longer than a row is cut.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from ndtrain.core.errors import UserError

Order = Callable[[int], np.ndarray]  # epoch -> positions in the list of documents, a permutation


class Piece(NamedTuple):
    """Tokens [begin, end) of a document. begin > 0: the row starts inside the document."""

    document: int
    begin: int
    end: int


class Rows(Protocol):
    def num_rows(self, epoch: int) -> int:
        """Rows that start in the epoch."""

    def pieces(self, epoch: int, row: int) -> list[Piece]:
        """Pieces of row 0 <= row < num_rows(epoch); at most sequence_length + 1 tokens."""


class TextRows:
    """documents: ids; lengths: tokens of each of them; order: identity for held-out rows.

    endless: rows continue into the next epoch. Otherwise epoch 0 is all, and its last row is short.
    """

    def __init__(
        self,
        documents: np.ndarray,
        lengths: np.ndarray,
        sequence_length: int,
        order: Order,
        endless: bool,
    ) -> None:
        self._documents = documents
        self._lengths = lengths
        self._sequence_length = sequence_length
        self._order = order
        self._endless = endless
        # Two, because a row or a batch at the edge needs the next epoch as well.
        self._layout = lru_cache(maxsize=2)(self._make_layout)
        self.num_tokens = int(lengths.sum())
        if endless and self.num_tokens <= sequence_length:
            raise UserError(
                f"the training data has {self.num_tokens} tokens,"
                f" not even one row of data.sequence_length={sequence_length}",
                where="data.sequence_length",
                help="give more data or a shorter sequence_length",
            )

    def num_rows(self, epoch: int) -> int:
        if not self._endless:
            # The first token of the first row is no target, so one token needs no row.
            num_targets = max(self.num_tokens - 1, 0)
            return -(-num_targets // self._sequence_length) if epoch == 0 else 0
        return self._first_row(epoch + 1) - self._first_row(epoch)

    def pieces(self, epoch: int, row: int) -> list[Piece]:
        position = (self._first_row(epoch) + row) * self._sequence_length
        stop = position + self._sequence_length + 1
        if not self._endless:
            stop = min(stop, self.num_tokens)
        pieces = []
        while position < stop:
            piece = self._piece_at(position, stop)
            pieces.append(piece)
            position += piece.end - piece.begin
        return pieces

    def _piece_at(self, position: int, stop: int) -> Piece:
        """What lies at [position, stop) of the endless stream, up to the end of its document."""
        epoch, offset = divmod(position, self.num_tokens)
        order, ends = self._layout(epoch)
        index = int(np.searchsorted(ends, offset, side="right"))
        length = int(self._lengths[order[index]])
        begin = length - (int(ends[index]) - offset)
        end = min(length, begin + stop - position)
        return Piece(int(self._documents[order[index]]), begin, end)

    def _first_row(self, epoch: int) -> int:
        """Index, over the whole run, of the first row that starts in the epoch."""
        return -(-epoch * self.num_tokens // self._sequence_length)

    def _make_layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the documents in the epoch's order, and where each ends in the epoch."""
        order = self._order(epoch)
        return order, np.cumsum(self._lengths[order])


class ConversationRows:
    """documents: ids; lengths: tokens of each of them."""

    def __init__(
        self,
        documents: np.ndarray,
        lengths: np.ndarray,
        sequence_length: int,
        order: Order,
    ) -> None:
        self._documents = documents
        self._lengths = np.minimum(lengths, sequence_length + 1)
        self._capacity = sequence_length + 1
        self._order = order
        self._layout = lru_cache(maxsize=2)(self._make_layout)

    def num_rows(self, epoch: int) -> int:
        return len(self._layout(epoch)[1]) - 1

    def pieces(self, epoch: int, row: int) -> list[Piece]:
        order, edges = self._layout(epoch)
        positions = order[edges[row] : edges[row + 1]]
        return [Piece(int(self._documents[p]), 0, int(self._lengths[p])) for p in positions]

    def _make_layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's order, and the first index of each row in it, plus the end."""
        order = self._order(epoch)
        return order, next_fit(self._lengths[order], self._capacity)


def next_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Edges of the rows: row r holds items [edges[r], edges[r + 1]). No item exceeds `capacity`."""
    ends = np.cumsum(lengths)
    edges = [0]
    filled = 0  # total length of the rows so far
    while edges[-1] < len(lengths):
        edge = int(np.searchsorted(ends, filled + capacity, side="right"))
        edges.append(edge)
        filled = int(ends[edge - 1])
    return np.asarray(edges, dtype=np.int64)

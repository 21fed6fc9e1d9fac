"""Batches by position: the state is (epoch, row), and knows nothing of ranks.

    loader = Loader(dataset, sequence_length=512, global_batch_size=8, seed=0)
    for rows in rank_rows(8, dp=2, dp_rank=0, micro_batch_size=2):
        batch = loader.batch(rows)      # rows [0, 2), then [2, 4), of the current global batch
    loader.num_targets()                # of the whole global batch, the same on every rank
    loader.advance()                    # to the next global batch
    loader.load_state(loader.state())   # {"epoch": 0, "row": 8}

Every rank walks through the same global batches and reads its own rows, so a state saved at one
data-parallel size continues at any other.
"""

from copy import copy
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from ndtrain.core.errors import UserError
from ndtrain.data.batch import Batch, Row, counted_row, fill_row, make_batch
from ndtrain.data.dataset import Dataset
from ndtrain.data.order import order_of
from ndtrain.data.pack import ConversationRows, Order, Piece, Rows, TextRows

_ROWS = 1  # salt of the rows' order; that of the documents has none


class Loader:
    """Rows of the training documents, epoch after epoch. Raises UserError if they fill no row.

    shuffle: the documents of an epoch are packed in a random order, and the rows are read in
    another one: the rows of a long document would else fill whole batches with one text.
    """

    def __init__(
        self,
        dataset: Dataset,
        sequence_length: int,
        global_batch_size: int,
        seed: int,
        *,
        document_mask: bool = True,
        shuffle: bool = True,
    ) -> None:
        self.dataset = dataset
        self.sequence_length = sequence_length
        self.global_batch_size = global_batch_size
        self.document_mask = document_mask
        num_documents = len(dataset.train)

        def order(epoch: int) -> np.ndarray:
            return order_of(num_documents, seed, epoch) if shuffle else np.arange(num_documents)

        def row_order(epoch: int) -> np.ndarray:
            num_rows = self._rows.num_rows(epoch)
            return order_of(num_rows, seed, epoch, _ROWS) if shuffle else np.arange(num_rows)

        self._rows = _make_rows(dataset, dataset.train, sequence_length, order, endless=True)
        # Two, because a batch at the edge needs the next epoch as well.
        self._row_order = lru_cache(maxsize=2)(row_order)
        self._epoch = 0
        self._row = 0
        self._current: list[list[Piece]] | None = None  # pieces of the current global batch
        settings = f"{dataset.fingerprint} {sequence_length} {seed if shuffle else None}"
        held_out = dataset.held_out.astype("<i8").tobytes()
        self.fingerprint = blake2b(settings.encode() + held_out, digest_size=16).hexdigest()
        """Equal fingerprints give equal rows: store it with the state, compare before loading."""

    def batch(self, rows: slice) -> Batch:
        """Rows [rows.start, rows.stop) of the current global batch."""
        return make_batch(self.rows(rows), self.document_mask)

    def rows(self, rows: slice) -> list[Row]:
        """The same rows, before inputs and targets are cut out of them."""
        assert 0 <= rows.start < rows.stop <= self.global_batch_size
        return [
            fill_row(self.dataset, pieces, self.sequence_length, self.document_mask)
            for pieces in self._pieces()[rows]
        ]

    def documents(self, rows: slice) -> list[int]:
        """Which documents these rows of the current global batch are cut from."""
        return sorted({piece.document for pieces in self._pieces()[rows] for piece in pieces})

    def num_targets(self) -> int:
        """Targets that the loss counts in the current global batch, over all ranks.

        Raises UserError if there are none: the mean loss would be 0 / 0.
        """
        count = sum(
            int(counted_row(self.dataset, pieces, self.sequence_length, self.document_mask).sum())
            for pieces in self._pieces()
        )
        if count == 0:
            raise UserError(
                "a global batch has no token that the loss counts",
                where=f"epoch {self._epoch}, row {self._row} of the data",
                help="its conversations are cut before their first answer: raise"
                " data.sequence_length or train.global_batch_size, or set data.train_on=all",
            )
        return count

    def advance(self) -> None:
        """Moves on by one global batch."""
        self._epoch, self._row = self._normalised(self._epoch, self._row + self.global_batch_size)
        self._current = None

    def ahead(self) -> "Loader":
        """The same data one global batch further, with a position of its own."""
        other = copy(self)
        other.advance()
        return other

    def state(self) -> dict[str, int]:
        """Where the current global batch begins: rows are counted from the start of the epoch."""
        return {"epoch": self._epoch, "row": self._row}

    def load_state(self, state: dict[str, int]) -> None:
        """Raises UserError for a state that this data cannot have produced."""
        epoch, row = state.get("epoch", -1), state.get("row", -1)
        if not self._is_valid(epoch, row):
            raise UserError(
                f"the data state {state} does not fit the data",
                where="the checkpoint",
                help="resume with the data, data.sequence_length and run.seed of the checkpoint",
            )
        self._epoch, self._row = epoch, row
        self._current = None

    def epoch(self) -> float:
        """Epochs done at the start of the current global batch, with the fraction of this one."""
        return self._epoch + self._row / self._rows.num_rows(self._epoch)

    def describe(self) -> str:
        """Rows of an epoch and, for chat, how well they are packed and what was cut."""
        num_rows = self._rows.num_rows(0)
        text = f"{num_rows} rows of {self.sequence_length} in the first epoch"
        if self.dataset.format == "text":
            return text + ", packed without padding"
        return f"{text}, {_chat_packing(self.dataset, self.sequence_length, num_rows)}"

    def _pieces(self) -> list[list[Piece]]:
        """Pieces of each row of the current global batch."""
        if self._current is None:
            self._current = []
            epoch, row = self._epoch, self._row
            for _ in range(self.global_batch_size):
                place = int(self._row_order(epoch)[row])
                self._current.append(self._rows.pieces(epoch, place))
                epoch, row = self._normalised(epoch, row + 1)
        return self._current

    def _is_valid(self, epoch: int, row: int) -> bool:
        whole = isinstance(epoch, int) and isinstance(row, int)
        return whole and epoch >= 0 and 0 <= row < self._rows.num_rows(epoch)

    def _normalised(self, epoch: int, row: int) -> tuple[int, int]:
        while row >= self._rows.num_rows(epoch):
            row -= self._rows.num_rows(epoch)
            epoch += 1
        return epoch, row


class HeldOutRows:
    """Rows of the held-out documents in a fixed order, each once, at most max_rows of them.

    Fewer than all are taken at equal distances, so that no one document speaks for the rest.
    Rows beyond `num_rows` are padding without targets, so that all ranks may run equal shapes.
    """

    def __init__(
        self,
        dataset: Dataset,
        sequence_length: int,
        *,
        max_rows: int | None = None,
        document_mask: bool = True,
    ) -> None:
        self.dataset = dataset
        self.sequence_length = sequence_length
        self.document_mask = document_mask

        def order(epoch: int) -> np.ndarray:
            return np.arange(len(dataset.held_out))

        self._rows = _make_rows(dataset, dataset.held_out, sequence_length, order, endless=False)
        self._available = self._rows.num_rows(0)
        self.num_rows = self._available if max_rows is None else min(max_rows, self._available)

    def batch(self, rows: slice) -> Batch:
        """Rows [rows.start, rows.stop)."""
        filled = [
            fill_row(self.dataset, pieces, self.sequence_length, self.document_mask)
            for pieces in self._pieces(rows)
        ]
        return make_batch(filled, self.document_mask)

    def num_targets(self, rows: slice) -> int:
        """Targets that the loss counts in these rows."""
        return sum(
            int(counted_row(self.dataset, pieces, self.sequence_length, self.document_mask).sum())
            for pieces in self._pieces(rows)
        )

    def _pieces(self, rows: slice) -> list[list[Piece]]:
        return [
            self._rows.pieces(0, row * self._available // self.num_rows)
            if row < self.num_rows
            else []
            for row in range(rows.start, rows.stop)
        ]


def rank_rows(global_batch_size: int, dp: int, dp_rank: int, micro_batch_size: int) -> list[slice]:
    """The rows of a global batch that one data-parallel rank computes, in micro-batches.

    Rank r has rows [r * G / dp, (r + 1) * G / dp); G must be a multiple of dp * micro_batch_size.
    """
    assert global_batch_size % (dp * micro_batch_size) == 0, "checked with the configuration"
    num_rows = global_batch_size // dp
    first = dp_rank * num_rows
    return [
        slice(begin, begin + micro_batch_size)
        for begin in range(first, first + num_rows, micro_batch_size)
    ]


def _make_rows(
    dataset: Dataset, documents: np.ndarray, sequence_length: int, order: Order, endless: bool
) -> Rows:
    lengths = dataset.lengths[documents]
    if dataset.format == "chat":
        return ConversationRows(documents, lengths, sequence_length, order)
    return TextRows(documents, lengths, sequence_length, order, endless)


def _chat_packing(dataset: Dataset, sequence_length: int, num_rows: int) -> str:
    capacity = sequence_length + 1
    lengths = dataset.lengths[dataset.train]
    filled = np.minimum(lengths, capacity).sum() / (num_rows * capacity)
    cut = dataset.train[lengths > capacity]
    num_lost = sum(not dataset.counted_of(document, 1, capacity).any() for document in cut)
    return (
        f"{filled:.1%} filled; {len(cut)} of {len(lengths)} conversations cut to a row"
        f" ({num_lost} of them before their first counted token)"
    )

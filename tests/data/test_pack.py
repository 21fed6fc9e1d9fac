"""Packing: which pieces make up a row. Properties over random lengths."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndtrain.core.errors import UserError
from ndtrain.data.order import order_of
from ndtrain.data.pack import ConversationRows, Piece, TextRows, next_fit

from .synthetic import properties

lengths_of_documents = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def text_rows(lengths: list[int], sequence_length: int, endless: bool = True) -> TextRows:
    documents = np.arange(100, 100 + len(lengths))  # ids are not positions

    def order(epoch: int) -> np.ndarray:
        return order_of(len(lengths), 5, epoch) if endless else np.arange(len(lengths))

    return TextRows(documents, np.asarray(lengths), sequence_length, order, endless)


def tokens_of(pieces: list[Piece]) -> list[tuple[int, int]]:
    return [(piece.document, token) for piece in pieces for token in range(piece.begin, piece.end)]


@properties
@given(lengths_of_documents, st.integers(1, 25))
def test_text_every_token_is_an_input_once_in_every_epoch(
    lengths: list[int], sequence_length: int
) -> None:
    if sum(lengths) <= sequence_length:
        lengths = [*lengths, sequence_length]
    rows = text_rows(lengths, sequence_length)
    stream = [
        token
        for epoch in range(4)
        for row in range(rows.num_rows(epoch))
        for token in tokens_of(rows.pieces(epoch, row))[:-1]  # the last is a target only
    ]
    everything = {(100 + i, t) for i, length in enumerate(lengths) for t in range(length)}
    for epoch in range(3):
        tokens = stream[epoch * len(everything) : (epoch + 1) * len(everything)]
        assert len(tokens) == len(everything)
        assert set(tokens) == everything


@properties
@given(lengths_of_documents, st.integers(1, 25))
def test_text_rows_are_full_and_overlap_by_one_token(
    lengths: list[int], sequence_length: int
) -> None:
    if sum(lengths) <= sequence_length:
        lengths = [*lengths, sequence_length]
    rows = text_rows(lengths, sequence_length)
    places = [(epoch, row) for epoch in range(3) for row in range(rows.num_rows(epoch))]
    packed = [tokens_of(rows.pieces(*place)) for place in places]
    assert all(len(row) == sequence_length + 1 for row in packed)
    assert all(a[-1] == b[0] for a, b in itertools.pairwise(packed))


@properties
@given(lengths_of_documents, st.integers(1, 25))
def test_held_out_text_is_read_once_from_first_to_last(
    lengths: list[int], sequence_length: int
) -> None:
    rows = text_rows(lengths, sequence_length, endless=False)
    packed = [tokens_of(rows.pieces(0, row)) for row in range(rows.num_rows(0))]
    everything = [(100 + i, t) for i, length in enumerate(lengths) for t in range(length)]
    targets = [token for row in packed for token in row[1:]]
    assert targets == everything[1:]
    assert all(len(row) == sequence_length + 1 for row in packed[:-1])
    assert rows.num_rows(1) == 0


def test_text_pieces_by_hand() -> None:
    rows = TextRows(np.array([7, 8]), np.array([3, 4]), 5, lambda epoch: np.array([1, 0]), True)
    # The stream is 8 8 8 8 7 7 7 | 8 8 8 8 7 7 7 | ...; rows start at tokens 0, 5, 10, ...
    assert rows.num_rows(0) == 2
    assert rows.num_rows(1) == 1
    assert rows.pieces(0, 0) == [Piece(8, 0, 4), Piece(7, 0, 2)]
    assert rows.pieces(0, 1) == [Piece(7, 1, 3), Piece(8, 0, 4)]
    assert rows.pieces(1, 0) == [Piece(8, 3, 4), Piece(7, 0, 3), Piece(8, 0, 2)]


def test_text_shorter_than_a_row_is_refused() -> None:
    with pytest.raises(UserError, match=r"9 tokens, not even one row of .*=9"):
        text_rows([4, 5], 9)
    assert text_rows([4, 6], 9).num_rows(0) == 2


@properties
@given(lengths_of_documents, st.integers(1, 40), st.integers(0, 3))
def test_conversations_are_whole_and_each_is_there_once(
    lengths: list[int], sequence_length: int, epoch: int
) -> None:
    documents = np.arange(100, 100 + len(lengths))
    rows = ConversationRows(
        documents, np.asarray(lengths), sequence_length, lambda e: order_of(len(lengths), 5, e)
    )
    packed = [rows.pieces(epoch, row) for row in range(rows.num_rows(epoch))]
    for pieces in packed:
        assert pieces
        assert sum(piece.end for piece in pieces) <= sequence_length + 1
        for piece in pieces:
            cut = min(lengths[piece.document - 100], sequence_length + 1)
            assert (piece.begin, piece.end) == (0, cut)
    in_order = [piece.document for pieces in packed for piece in pieces]
    assert in_order == documents[order_of(len(lengths), 5, epoch)].tolist()


@properties
@given(st.lists(st.integers(1, 10), max_size=40), st.integers(10, 25))
def test_next_fit_opens_a_row_only_when_the_next_does_not_fit(
    lengths: list[int], capacity: int
) -> None:
    edges = next_fit(np.asarray(lengths, dtype=np.int64), capacity).tolist()
    assert edges[0] == 0
    assert edges[-1] == len(lengths)
    for begin, end in itertools.pairwise(edges):
        assert 0 < sum(lengths[begin:end]) <= capacity
        if end < len(lengths):
            assert sum(lengths[begin : end + 1]) > capacity


def test_no_documents_make_no_rows(tmp_path: Path) -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert text_rows([], 1, endless=False).num_rows(0) == 0
    assert ConversationRows(nothing, nothing, 8, lambda epoch: nothing).num_rows(0) == 0

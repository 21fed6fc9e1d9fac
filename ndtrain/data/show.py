"""Rows as a person reads them: documents of decoded text, in runs that the loss counts or not."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ndtrain.data.batch import Row
from ndtrain.data.tokenizer import Tokenizer


class Run(NamedTuple):
    """Neighbouring tokens of one kind."""

    text: str
    counted: bool


class ShownDocument(NamedTuple):
    begin: int  # columns [begin, end) of the row
    end: int
    runs: list[Run]


def shown_documents(row: Row, tokenizer: Tokenizer) -> list[ShownDocument]:
    """The documents of a row, padding left out. A counted token is one whose prediction counts."""
    begins = [int(begin) for begin in np.unique(row.starts[: row.num_filled])]
    ends = [*begins[1:], row.num_filled]
    return [
        ShownDocument(begin, end, _runs(row, begin, end, tokenizer))
        for begin, end in zip(begins, ends, strict=True)
    ]


def _runs(row: Row, begin: int, end: int, tokenizer: Tokenizer) -> list[Run]:
    counted = row.counted[begin:end]
    edges = [0, *(np.flatnonzero(np.diff(counted)) + 1).tolist(), end - begin]
    return [
        Run(tokenizer.decode(row.tokens[begin + a : begin + b].tolist()), bool(counted[a]))
        for a, b in pairwise(edges)
    ]


def printable(text: str) -> str:
    """Control characters escaped, apart from line ends and tabs: data must not steer a terminal."""
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode()
        for character in text
    )

"""The held-out split: by the text's hash, never empty, stable as data are added."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndtrain.core.errors import UserError
from ndtrain.data.dataset import split_by_hash

from .synthetic import make_dataset, properties

words = st.integers(0, 2**64 - 1)


def split(hashes: list[int], fraction: float) -> tuple[list[int], list[int]]:
    train, held_out = split_by_hash(np.asarray(hashes, dtype=np.uint64), fraction)
    return train.tolist(), held_out.tolist()


@properties
@given(st.lists(words, min_size=2).filter(lambda x: len(set(x)) > 1), st.floats(1e-9, 1 - 1e-9))
def test_both_sides_have_documents_and_no_text_is_on_both(
    hashes: list[int], fraction: float
) -> None:
    train, held_out = split(hashes, fraction)
    assert train
    assert held_out
    assert sorted(train + held_out) == list(range(len(hashes)))
    assert not {hashes[i] for i in train} & {hashes[i] for i in held_out}


@properties
@given(st.lists(words, min_size=3, unique=True), st.lists(words, max_size=5))
def test_sides_do_not_change_when_documents_are_added(hashes: list[int], added: list[int]) -> None:
    hashes = [0, *hashes, 2**64 - 1]  # so that neither side has to be filled
    _, before = split(hashes, 0.5)
    _, after = split(hashes + added, 0.5)
    assert [i for i in after if i < len(hashes)] == before


def test_share_is_about_the_fraction() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64)
    _, held_out = split_by_hash(hashes, 0.02)
    assert 130 < len(held_out) < 270  # 200 expected, standard deviation 14


def test_zero_holds_nothing_out() -> None:
    assert split([5, 5], 0.0) == ([0, 1], [])
    assert split([], 0.0) == ([], [])


@pytest.mark.parametrize(
    ("hashes", "problem"), [([3], "one document"), ([3, 3], "2 identical documents")]
)
def test_what_cannot_be_split_is_refused(hashes: list[int], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        split(hashes, 0.1)
    assert "held_out_fraction=0" in caught.value.help


def test_a_dataset_is_read_only(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [3, 4])
    with pytest.raises(ValueError, match="read-only"):
        dataset.tokens_of(0, 0, 2)[0] = 1

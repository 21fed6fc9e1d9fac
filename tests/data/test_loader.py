"""The loader: shifted targets, masks, positions; one global sequence whatever the ranks; resume."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndtrain.core.errors import UserError
from ndtrain.data import IGNORED_TARGET, Batch, HeldOutRows, Loader, rank_rows

from .synthetic import PADDING, make_dataset, properties

LENGTHS = [5, 17, 1, 30, 8, 2, 11, 23, 9]
COUNTED = [bool(i * 7 % 3) for i in range(sum(LENGTHS))]


def whole(loader: Loader) -> Batch:
    return loader.batch(slice(0, loader.global_batch_size))


def run(loader: Loader, steps: int) -> list[Batch]:
    batches = []
    for _ in range(steps):
        batches.append(whole(loader))
        loader.advance()
    return batches


def assert_equal(a: Batch, b: Batch) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def edges_of(lengths: list[int]) -> set[int]:
    """First token of each document, in the synthetic corpus."""
    return set(np.cumsum([0, *lengths[:-1]]).tolist())


@properties
@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=10),
    st.integers(1, 12),
    st.integers(0, 5),
)
def test_text_rows_under_a_document_mask(
    tmp_path: Path, lengths: list[int], sequence_length: int, seed: int
) -> None:
    lengths = [*lengths, sequence_length + 1]
    loader = Loader(make_dataset(tmp_path, lengths), sequence_length, 3, seed)
    firsts = edges_of(lengths)
    for batch in run(loader, 6):
        tokens, targets, positions, starts = batch
        assert starts is not None
        for r, i in np.ndindex(tokens.shape):
            begin = starts[r, i]
            # Each token sees exactly the tokens of its own document that are in the row.
            assert positions[r, i] == i - begin
            assert tokens[r, i] - tokens[r, begin] == i - begin
            assert begin == 0 or tokens[r, begin] in firsts
            assert all(token not in firsts for token in tokens[r, begin + 1 : i + 1])
            # The next token of the document, or nothing after the last one.
            following = int(tokens[r, i]) + 1
            is_last = following in firsts or following == sum(lengths)
            assert targets[r, i] == (IGNORED_TARGET if is_last else following)


@properties
@given(st.lists(st.integers(1, 20), min_size=2, max_size=10), st.integers(1, 12))
def test_text_rows_without_a_document_mask(
    tmp_path: Path, lengths: list[int], sequence_length: int
) -> None:
    lengths = [*lengths, sequence_length + 1]
    loader = Loader(
        make_dataset(tmp_path, lengths), sequence_length, 2, 0, document_mask=False, shuffle=False
    )
    batches = run(loader, 4)
    inputs = np.concatenate([batch.tokens_BS.ravel() for batch in batches])
    targets = np.concatenate([batch.targets_BS.ravel() for batch in batches])
    np.testing.assert_array_equal(inputs[1:], targets[:-1])  # one stream, nothing is left out
    for batch in batches:
        assert batch.starts_BS is None
        assert (batch.positions_BS == np.arange(sequence_length)).all()


@pytest.mark.parametrize("epoch", [0, 2])
def test_shuffled_rows_are_those_of_the_epoch_in_another_order(tmp_path: Path, epoch: int) -> None:
    dataset = make_dataset(tmp_path, [170, 330, 41, 90])
    loader = Loader(dataset, 10, 1, seed=3)
    num_rows = loader._rows.num_rows(epoch)
    loader.load_state({"epoch": epoch, "row": 0})
    seen = []
    for _ in range(num_rows):
        seen.append(loader._pieces()[0])
        loader.advance()
    in_order = [loader._rows.pieces(epoch, row) for row in range(num_rows)]
    assert sorted(seen) == sorted(in_order)
    assert seen != in_order


def test_a_long_document_does_not_fill_whole_batches(tmp_path: Path) -> None:
    """10 documents of 100 rows each: neighbours in a batch are from one document in 1 of 10."""
    loader = Loader(make_dataset(tmp_path, [1000] * 10), 10, 8, seed=0)
    neighbours = []
    for _ in range(20):
        rows = [loader.documents(slice(row, row + 1))[0] for row in range(8)]
        neighbours += [a == b for a, b in itertools.pairwise(rows)]
        loader.advance()
    assert np.mean(neighbours) < 0.25  # of 140; 0.1 and six standard deviations


def test_few_held_out_rows_are_spread_over_the_documents(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [500] * 20, held_out_fraction=0.5)
    held_out = HeldOutRows(dataset, 10, max_rows=len(dataset.held_out))
    starts = held_out.batch(slice(0, held_out.num_rows)).tokens_BS[:, 0]
    assert len({int(token) // 500 for token in starts}) >= len(dataset.held_out) - 1


@properties
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=10),
    st.integers(2, 25),
    st.booleans(),
    st.data(),
)
def test_chat_counts_each_flagged_token_once_an_epoch(
    tmp_path: Path,
    lengths: list[int],
    sequence_length: int,
    document_mask: bool,
    data: st.DataObject,
) -> None:
    flags = st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths))
    counted = data.draw(flags)
    dataset = make_dataset(tmp_path, lengths, "chat", counted)
    loader = Loader(dataset, sequence_length, 1, 0, document_mask=document_mask)
    targets: list[int] = []
    while loader.state()["epoch"] == 0:
        batch = whole(loader)
        targets += batch.targets_BS[batch.targets_BS != IGNORED_TARGET].tolist()
        loader.advance()
    offsets = np.cumsum([0, *lengths])
    capacity = sequence_length + 1
    expected = {
        int(offset) + i
        for offset, length in zip(offsets[:-1], lengths, strict=True)
        for i in range(1, min(length, capacity))
        if counted[offset + i]
    }
    # Without a mask the first token of a conversation is a target too, unless it begins the row.
    firsts = edges_of(lengths)
    assert [t for t in sorted(targets) if document_mask or t not in firsts] == sorted(expected)


def test_chat_padding_is_its_own_document_and_counts_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [3, 4], "chat")
    batch = whole(Loader(dataset, 9, 1, 0, shuffle=False))
    assert batch.tokens_BS.tolist() == [[0, 1, 2, 3, 4, 5, 6, PADDING, PADDING]]
    assert batch.targets_BS.tolist() == [[1, 2, -100, 4, 5, 6, -100, -100, -100]]
    assert batch.positions_BS.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0, 1]]
    assert batch.starts_BS is not None
    assert batch.starts_BS.tolist() == [[0, 0, 0, 3, 3, 3, 3, 7, 7]]


def test_dtypes(tmp_path: Path) -> None:
    for mask in (True, False):
        loader = Loader(make_dataset(tmp_path, LENGTHS), 8, 2, 0, document_mask=mask)
        tokens, targets, positions, starts = whole(loader)
        assert (tokens.dtype, targets.dtype, positions.dtype) == (np.int64,) * 3
        assert starts is None or starts.dtype == np.int32
        assert all(array is None or array.flags.c_contiguous for array in whole(loader))


@pytest.mark.parametrize("format", ["text", "chat"])
@pytest.mark.parametrize("dp", [1, 2, 4])
def test_ranks_together_see_the_global_sequence(tmp_path: Path, format: str, dp: int) -> None:
    counted = COUNTED if format == "chat" else None
    dataset = make_dataset(tmp_path, LENGTHS, format, counted)  # type: ignore[arg-type]
    steps = 7
    expected = run(Loader(dataset, 16, 8, seed=3), steps)
    ranks = [Loader(dataset, 16, 8, seed=3) for _ in range(dp)]
    for step in range(steps):
        parts = [
            loader.batch(rows)
            for rank, loader in enumerate(ranks)
            for rows in rank_rows(8, dp, rank, micro_batch_size=2)
        ]
        joined = Batch(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        assert_equal(joined, expected[step])
        num_targets = int((expected[step].targets_BS != IGNORED_TARGET).sum())
        assert {loader.num_targets() for loader in ranks} == {num_targets}
        for loader in ranks:
            loader.advance()


@properties
@given(
    st.sampled_from(["text", "chat"]),
    st.integers(0, 12),
    st.integers(1, 12),
    st.sampled_from([1, 2, 4, 16]),
)
def test_resume_anywhere_and_twice(
    tmp_path: Path, format: str, first: int, second: int, global_batch_size: int
) -> None:
    # 106 tokens: with 16 rows of 16 a batch spans more than two epochs.
    counted = COUNTED if format == "chat" else None
    dataset = make_dataset(tmp_path, LENGTHS, format, counted)  # type: ignore[arg-type]

    def fresh() -> Loader:
        return Loader(dataset, 16, global_batch_size, seed=1)

    expected = run(fresh(), first + second + 3)
    loader, resumed = fresh(), []
    for steps in (first, second, 3):  # a new process after each part
        state = json.loads(json.dumps(loader.state()))
        loader = fresh()
        loader.load_state(state)
        resumed += run(loader, steps)
    for a, b in zip(resumed, expected, strict=True):
        assert_equal(a, b)


def test_state_is_small_and_counts_rows_from_the_epoch(tmp_path: Path) -> None:
    loader = Loader(make_dataset(tmp_path, LENGTHS), 10, 4, 0)  # 106 tokens: 11 rows, then 11, 10
    states = []
    for _ in range(6):
        states.append(loader.state())
        loader.advance()
    places = [(0, 0), (0, 4), (0, 8), (1, 1), (1, 5), (1, 9)]
    assert states == [{"epoch": epoch, "row": row} for epoch, row in places]
    loader.load_state({"epoch": 1, "row": 5})
    assert loader.epoch() == pytest.approx(1 + 5 / 11)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"epoch": 0},
        {"epoch": -1, "row": 0},
        {"epoch": 0, "row": 11},
        {"epoch": 0, "row": -1},
        {"epoch": "0", "row": 0},
        {"epoch": 0, "row": 1.5},
    ],
)
def test_a_state_that_does_not_fit_is_refused(tmp_path: Path, state: dict) -> None:
    loader = Loader(make_dataset(tmp_path, LENGTHS), 10, 4, 0)
    with pytest.raises(UserError, match="does not fit the data"):
        loader.load_state(state)


def test_epochs_differ_when_shuffled_and_repeat_when_not(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, LENGTHS, "chat")
    for shuffle in (True, False):
        loader = Loader(dataset, 200, 1, 0, shuffle=shuffle)  # an epoch is one row
        first, second = run(loader, 2)
        assert np.array_equal(first.tokens_BS, second.tokens_BS) is not shuffle


def test_fingerprint_follows_what_decides_the_rows(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, LENGTHS)
    split = make_dataset(tmp_path, LENGTHS, held_out_fraction=0.3)
    base = Loader(dataset, 10, 4, 0).fingerprint
    assert Loader(dataset, 10, 8, 0, document_mask=False).fingerprint == base
    others = [
        Loader(dataset, 11, 4, 0),
        Loader(dataset, 10, 4, 1),
        Loader(dataset, 10, 4, 0, shuffle=False),
        Loader(split, 10, 4, 0),
    ]
    assert len({base, *(loader.fingerprint for loader in others)}) == 5


def test_a_batch_without_targets_is_refused(tmp_path: Path) -> None:
    counted = [False] * 9 + [True]  # the answer is beyond the end of the row
    loader = Loader(make_dataset(tmp_path, [10], "chat", counted), 6, 1, 0)
    assert "1 of 1 conversations cut to a row (1 of them" in loader.describe()
    with pytest.raises(UserError, match="no token that the loss counts"):
        loader.num_targets()


def test_describe_says_how_full_the_rows_are(tmp_path: Path) -> None:
    chat = Loader(make_dataset(tmp_path, [6, 6, 12], "chat"), 9, 1, 0, shuffle=False)
    # Rows of 10 tokens hold 6, 6 and the first 10 of 12.
    assert chat.describe() == (
        "3 rows of 9 in the first epoch, 73.3% filled;"
        " 1 of 3 conversations cut to a row (0 of them before their first counted token)"
    )
    text = Loader(make_dataset(tmp_path, [6, 6, 12]), 9, 1, 0)
    assert text.describe() == "3 rows of 9 in the first epoch, packed without padding"


@pytest.mark.parametrize("format", ["text", "chat"])
def test_held_out_rows_are_fixed_and_complete(tmp_path: Path, format: str) -> None:
    lengths = LENGTHS * 5
    dataset = make_dataset(tmp_path, lengths, format, held_out_fraction=0.4)  # type: ignore[arg-type]
    held_out = HeldOutRows(dataset, 32, document_mask=True)
    batch = held_out.batch(slice(0, held_out.num_rows + 2))
    counted = batch.targets_BS[batch.targets_BS != IGNORED_TARGET]
    offsets = np.cumsum([0, *lengths])
    expected = [
        token
        for document in dataset.held_out
        for token in range(offsets[document] + 1, offsets[document + 1])
    ]
    assert counted.tolist() == expected
    assert held_out.num_targets(slice(0, held_out.num_rows + 2)) == len(expected)
    # Rows past the end have the shape of the others, and nothing in them.
    assert (batch.targets_BS[-2:] == IGNORED_TARGET).all()
    assert (batch.tokens_BS[-2:] == PADDING).all()
    assert held_out.num_targets(slice(held_out.num_rows, held_out.num_rows + 2)) == 0
    assert not set(dataset.held_out.tolist()) & set(dataset.train.tolist())


def test_rank_rows_cover_the_batch_in_order() -> None:
    assert rank_rows(8, 2, 1, 2) == [slice(4, 6), slice(6, 8)]
    covered = [
        row for rank in range(4) for rows in rank_rows(24, 4, rank, 3) for row in range(24)[rows]
    ]
    assert covered == list(range(24))

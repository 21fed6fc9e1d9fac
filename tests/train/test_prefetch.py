"""Input that is made ahead is the input that would be made; its errors are those of the data."""

import threading
from pathlib import Path

import numpy as np
import pytest

from ndtrain.core.errors import UserError
from ndtrain.data.loader import Loader, rank_rows
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.streams import StreamError
from ndtrain.train.prefetch import NAME, Input, Prefetch
from tests.data.synthetic import make_dataset
from tests.overlap.lone import lone

NUM_STEPS = 7
LENGTHS = [5, 17, 1, 30, 8, 2, 11, 23, 9]


def new_loader(folder: Path) -> Loader:
    return Loader(make_dataset(folder, LENGTHS), 6, global_batch_size=4, seed=1)


def prefetch_of(loader: Loader, runtime: Runtime) -> Prefetch:
    return Prefetch(loader, rank_rows(4, 2, 1, 1), runtime)


def inputs_of(loader: Loader, prefetch: Prefetch) -> list[Input]:
    found = []
    for step in range(NUM_STEPS):
        found.append(prefetch.take(wants_next=step < NUM_STEPS - 1))
        loader.advance()
    return found


def test_inputs_are_those_of_the_loader_and_made_on_the_stream(tmp_path: Path) -> None:
    made: list[str] = []
    ours = new_loader(tmp_path)
    found = inputs_of(ours, prefetch_of(ours, lone(1, 0, made.append)))
    assert made == [NAME] * (NUM_STEPS - 1)  # the first could not be made ahead
    plain = new_loader(tmp_path)
    for own in found:
        batches = [plain.batch(part) for part in rank_rows(4, 2, 1, 1)]
        assert own.num_targets == plain.num_targets()
        for batch, other in zip(own.batches, batches, strict=True):
            for x, y in zip(batch, other, strict=True):
                np.testing.assert_array_equal(x, y)
        plain.advance()
    assert ours.state() == plain.state()


def test_a_loader_that_was_moved_is_read_where_it_is(tmp_path: Path) -> None:
    loader = new_loader(tmp_path)
    prefetch = prefetch_of(loader, lone(1, 0))
    first = prefetch.take(wants_next=True)
    # No advance: a step is taken again.
    again = prefetch.take(wants_next=False)
    np.testing.assert_array_equal(first.batches[0].tokens_BS, again.batches[0].tokens_BS)


def test_the_next_input_is_begun_before_this_step_computes(tmp_path: Path) -> None:
    """It may take as long as it likes: `take` has returned."""
    may_end = threading.Event()

    def before(name: str) -> None:
        assert may_end.wait(60)

    loader = new_loader(tmp_path)
    prefetch = prefetch_of(loader, lone(1, 0, before))
    prefetch.take(wants_next=True)
    assert prefetch._pending is not None
    assert not prefetch._pending.is_done
    may_end.set()
    loader.advance()
    assert prefetch.take(wants_next=False).num_targets > 0


def test_mistakes_in_the_data_are_told_as_such_and_others_by_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> None:
        loader = new_loader(tmp_path)
        prefetch = prefetch_of(loader, lone(1, 0))

        def broken(self: Loader) -> int:
            raise error

        with monkeypatch.context() as patch:
            prefetch.take(wants_next=False)
            loader.advance()
            patch.setattr(Loader, "num_targets", broken)
            prefetch._pending, prefetch._state = prefetch._begin(), loader.state()
            prefetch.take(wants_next=False)

    with pytest.raises(UserError, match="no token that the loss counts"):
        fail(UserError("a global batch has no token that the loss counts"))
    with pytest.raises(StreamError, match="input failed: a bug"):
        fail(ValueError("a bug"))

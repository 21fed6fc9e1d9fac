"""A place that is data indexes as the number does, and says nothing of the rank to a graph."""

import pytest
import torch

from ndtrain.runtime.place import Place, TracedPlace

RANKS = [(rank, size) for size in (1, 2, 3, 8) for rank in range(size)]


def traced(rank: int, size: int) -> TracedPlace:
    return TracedPlace.on(torch.device("cpu"), rank, size)


@pytest.mark.parametrize(("rank", "size"), RANKS)
def test_turned_rows_begin_with_the_own_ones_and_turn_back(rank: int, size: int) -> None:
    x, place = torch.randn(3 * size, 2, 5), traced(rank, size)
    turned = place.turn(x)
    assert torch.equal(turned, torch.cat([x[3 * rank :], x[: 3 * rank]]))
    assert torch.equal(turned[3 * place.counted :][:3], x[3 * rank :][:3])
    assert torch.equal(place.turn_back(turned), x)


@pytest.mark.parametrize(("rank", "size"), RANKS)
def test_rows_are_counted_from_the_first_own_one(rank: int, size: int) -> None:
    targets = torch.tensor([[-100, 0, 7], [rank * 7, rank * 7 + 6, size * 7 - 1]])
    expected = targets - rank * 7
    for place in (Place(rank, size), traced(rank, size)):
        row = place.from_first(targets, 7)
        assert row.dtype == torch.int64
        assert torch.equal(row, expected)


def test_numbers_are_equal_by_value_and_data_belongs_to_one_runtime() -> None:
    """A schedule that is kept for another runtime would read the tensors of this one."""
    assert Place(1, 4) == Place(1, 4)
    assert hash(Place(1, 4)) == hash(Place(1, 4))
    one, other = traced(1, 4), traced(1, 4)
    assert len({one, other, Place(1, 4)}) == 3
    assert (Place(1, 4).is_data, one.is_data) == (False, True)

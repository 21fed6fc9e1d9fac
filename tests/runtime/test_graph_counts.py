"""How many graphs were compiled or found between two looks."""

from ndtrain.runtime.graph_counts import Counts


def test_what_another_rank_compiled_meanwhile_was_not_found_at_once() -> None:
    assert Counts(compiled=3, found=7, missed=5).found_at_once == 5
    assert Counts(compiled=3, found=None, missed=3).found_at_once == 0


def test_what_nobody_counts_stays_unknown() -> None:
    known, unknown = Counts(5, 2, 5), Counts(5, None, 5)
    assert known.since(known).is_nothing
    assert unknown.since(unknown) == Counts(0, None, 0)
    assert unknown.since(unknown).is_nothing
    assert not Counts(0, 1, 0).is_nothing

"""Ranks that meet before anything is collective: who does not come is named, in bounded time."""

import threading
from pathlib import Path

import pytest
import torch.distributed as dist

from ndtrain.core.errors import UserError
from ndtrain.train.agree import Bystander
from ndtrain.train.meet import meet


def meet_as(ranks: list[int], world_size: int, folder: Path, limit_s: float) -> dict[int, object]:
    """What comes of each of these ranks, each a thread with a store of its own."""
    found: dict[int, object] = {}

    def run(rank: int) -> None:
        try:
            found[rank] = meet(rank, world_size, f"file://{folder}/place", limit_s)
        except UserError as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_all_come(tmp_path: Path) -> None:
    found = meet_as([0, 1, 2], 3, tmp_path, limit_s=60)
    assert all(isinstance(store, dist.Store) for store in found.values())


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([0, 2], "2 of 4 ranks did not come within 0.2 s: 1, 3"),
        ([1, 2, 3], "1 of 4 ranks did not come within 0.2 s: 0"),
    ],
)
def test_who_is_absent_is_said_once(ranks: list[int], message: str, tmp_path: Path) -> None:
    found = meet_as(ranks, 4, tmp_path, limit_s=0.2)
    first, *others = (found[rank] for rank in ranks)
    assert isinstance(first, UserError)
    assert first.what == message
    assert "py-spy dump" in first.help
    assert all(isinstance(other, Bystander) for other in others)


def test_many_are_counted(tmp_path: Path) -> None:
    (error,) = meet_as([0], 12, tmp_path, limit_s=0.2).values()
    assert isinstance(error, UserError)
    assert error.what.endswith(": 1, 2, 3, 4, 5, 6, 7, 8 and 3 more")


def test_every_node_says_it_in_the_log_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # here of both
    found = meet_as([1, 2], 3, tmp_path, limit_s=0.2)
    assert not any(isinstance(error, Bystander) for error in found.values())

"""Rounds: everyone once a round, in an order that rotates, the first round for nothing."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from ndtrain.bench.contestant import Contestant
from ndtrain.bench.rounds import Rounds, Spread, ratio_of_rounds, run_rounds
from ndtrain.bench.workload import DEFAULT, Workload


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Scripted(Contestant):
    uses_all_ranks = True

    def __init__(self, name: str, log: list[str], loss: float | None) -> None:
        self.name = name
        self.has_loss = loss is not None
        self._log = log
        self._loss = loss

    def setup(self, workload: Workload) -> None:
        self._log.append(f"setup {self.name}")

    def step(self) -> float:
        self._log.append(self.name)
        return math.nan if self._loss is None else self._loss


@pytest.mark.usefixtures("one_rank")
def test_order_rotates_and_the_first_round_does_not_count() -> None:
    log: list[str] = []
    contestants = [Scripted("a", log, 1.5), Scripted("b", log, None), Scripted("c", log, 2.5)]
    rounds = run_rounds(contestants, DEFAULT, num_rounds=3)
    assert log[:3] == ["setup a", "setup b", "setup c"]
    assert "".join(log[3:]) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(times) for name, times in rounds.step_ms.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(time > 0 for times in rounds.step_ms.values() for time in times)
    assert rounds.losses == {"a": 1.5, "b": None, "c": 2.5}


@pytest.mark.usefixtures("one_rank")
def test_everyone_goes_first_equally_often() -> None:
    log: list[str] = []
    contestants = [Scripted(name, log, 1.0) for name in "abcd"]
    run_rounds(contestants, DEFAULT, num_rounds=7)
    assert Counter(log[4::4]) == {"a": 2, "b": 2, "c": 2, "d": 2}


def test_a_ratio_compares_within_each_round() -> None:
    # The machine was ten times slower in the second round; the ratio is 2 in all of them.
    rounds = Rounds({"a": [2.0, 20.0, 4.0], "b": [1.0, 10.0, 2.0], "c": [3.0, 30.0, 6.0]}, {})
    assert ratio_of_rounds(rounds, ("a",), "b") == Spread(2.0, 2.0, 2.0)
    assert ratio_of_rounds(rounds, ("a", "b"), "c") == Spread(1.0, 1.0, 1.0)


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)

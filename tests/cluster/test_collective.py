"""The short collective: wrong is wrong. Between nodes it runs in test_preflight.py."""

import pytest
import torch

from ndtrain.cluster import collective
from ndtrain.core.errors import UserError


def test_a_sum_that_lacks_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 of four brings 1, the others 2, 3 and 4."""

    def reduce(values: torch.Tensor) -> None:
        values += added

    monkeypatch.setattr(collective.dist, "all_reduce", reduce)
    added = 2.0 + 3.0 + 4.0
    collective._check_sum(rank=0, world_size=4)
    added = 2.0 + 3.0
    with pytest.raises(UserError, match="over 4 nodes gave a wrong sum"):
        collective._check_sum(rank=0, world_size=4)

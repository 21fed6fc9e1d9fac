"""What PyTorch counts of inductor; that it does so with a compiler: tests/e2e/test_compile.py."""

import pytest
from torch._dynamo.utils import counters

from ndtrain.runtime.graph_counts import Counts
from ndtrain.runtime.inductor_graphs import InductorGraphs


def test_what_is_not_in_its_cache_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = InductorGraphs()
    before = graphs.counts()
    monkeypatch.setitem(counters, "inductor", counters["inductor"].copy())
    counters["inductor"]["fxgraph_cache_miss"] += 3
    counters["inductor"]["fxgraph_cache_hit"] += 2
    with graphs.counting():
        assert graphs.counts().since(before) == Counts(compiled=3, found=2, missed=3)
    assert graphs.entries() == frozenset()

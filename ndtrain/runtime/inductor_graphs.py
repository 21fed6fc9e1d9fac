"""What inductor compiled in this process, PyTorch's compiler for a CPU, or found in its own cache.

    first_runs = FirstRuns(InductorGraphs(), None, lambda: None)

By the counters that PyTorch keeps for people to look at (`torch._dynamo.utils.counters`; read with
2.9 and 2.13). Where its cache lies and what it holds is PyTorch's business.
"""

from contextlib import AbstractContextManager, nullcontext

from torch._dynamo.utils import counters

from ndtrain.runtime.graph_counts import Counts


class InductorGraphs:
    def entries(self) -> frozenset[str]:
        return frozenset()

    def counting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def counts(self) -> Counts:
        own = counters["inductor"]
        missed = own["fxgraph_cache_miss"]
        return Counts(missed, own["fxgraph_cache_hit"], missed)

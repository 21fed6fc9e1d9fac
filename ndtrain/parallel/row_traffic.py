"""The embedding's bucket, of which rows travel instead of the whole (`touched_rows.py`).

rows = row_traffic(model, buckets, runtime)     # None where the whole travels
rows.reduce(gradients, collectives, name, track)
rows.fetch(tokens)                              # ahead of the gather of the whole
"""

from collections.abc import Sequence

from torch import Tensor

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.apply import EMBEDDING
from ndtrain.parallel.bucket import Bucket
from ndtrain.parallel.touched_rows import fetch_rows, sum_touched_rows
from ndtrain.runtime.collectives import Collectives
from ndtrain.runtime.runtime import Runtime


def row_traffic(model: Qwen3, buckets: Sequence[Bucket], runtime: Runtime) -> "RowTraffic | None":
    """Not of an embedding that is the head too: that one has a gradient in every row."""
    if model.shape.tie_embeddings or not runtime.sizes_may_vary or runtime.mesh.data.size == 1:
        return None
    for index, bucket in enumerate(buckets):
        first = bucket.members[0]
        if first.name == EMBEDDING and first.shape[0] % runtime.mesh.data.size == 0:
            return RowTraffic(index, bucket, runtime)
    return None


class RowTraffic:
    def __init__(self, index: int, bucket: Bucket, runtime: Runtime) -> None:
        """bucket: number `index`, of the embedding alone; its data ranks own whole rows."""
        self.index = index
        self._bucket = bucket
        self._runtime = runtime

    def reduce(self, gradients: Tensor, collectives: Collectives, name: str, track: str) -> Tensor:
        """The bucket's gradients of each data rank -> own range of the sum."""
        (member,) = self._bucket.members
        gradient_VH = self._bucket.view(gradients, member)
        axis = self._runtime.mesh.data
        return sum_touched_rows(gradient_VH, collectives, axis, name, track).view(-1)

    def fetch(self, tokens: Tensor) -> None:
        """The rows of these tokens, of any shape, from the ranks that have updated them.

        The gather of the whole, on its way meanwhile, writes the same values.
        """
        (member,), runtime = self._bucket.members, self._runtime
        values_VH = self._bucket.view(self._bucket.values, member)
        rows = runtime.place(runtime.mesh.tensor).from_first(tokens, len(values_VH))
        name, axis = f"buckets.gather_{self.index}.rows", runtime.mesh.data
        fetch_rows(values_VH, rows, runtime.collectives, axis, name, "gather")

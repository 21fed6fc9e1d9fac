"""A bucket whose range is data: the same numbers as with a range that the host knows."""

import pytest
import torch
from torch import Tensor

from ndtrain.parallel.bucket import Bucket
from ndtrain.parallel.shard import Shard, Slice
from ndtrain.runtime.place import Place, TracedPlace

# Rows of 6 and 4: what two ranks share lies in the middle of the first member, and is all of the
# last one; 47 elements are padded to 48.
SHARDS = {
    "qkv": Shard(0, (Slice(0, 3), Slice(3, 4, 2), Slice(4, 5, 2))),
    "up": Shard(0, (Slice(0, 3),)),
    "norm": Shard.replicated(5, 2),
}
SHAPES = {"qkv": (5, 6), "up": (3, 4), "norm": (5,)}


def initial(names: list[str]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(SHAPES[name], generator=generator) for name in names}


def bucket(rank: int, size: int, names: list[str], dtype: torch.dtype, is_data: bool) -> Bucket:
    place = TracedPlace.on(torch.device("cpu"), rank, size) if is_data else Place(rank, size)
    return Bucket("bucket0", initial(names), place, dtype)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_own_ranges_updated_are_the_bucket(dtype: torch.dtype, size: int) -> None:
    """Nothing of `values` is written before the gather."""
    parts = []
    for rank in range(size):
        one = bucket(rank, size, list(SHAPES), dtype, is_data=True)
        known = bucket(rank, size, list(SHAPES), dtype, is_data=False)
        assert torch.equal(one.master, known.master)
        before = one.values.clone()
        with torch.no_grad():
            for each in (one, known):
                each.master.mul_(3)
            part = one.updated()
            assert torch.equal(part, known.updated())
        assert part.dtype == dtype
        assert torch.equal(one.values, before)
        parts.append(part)
    whole = torch.cat([value.flatten() for value in initial(list(SHAPES)).values()])
    assert torch.equal(torch.cat(parts)[: len(whole)], (3 * whole).to(dtype))


@pytest.mark.parametrize("names", [["qkv", "up", "norm"], ["up", "norm"], ["up"], ["norm"]])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_weights_of_the_norm_count_what_segments_count(size: int, names: list[str]) -> None:
    counts = set()
    for rank in range(size):
        one = bucket(rank, size, names, torch.float32, is_data=False)
        gradient = torch.randn(one.stop - one.start, dtype=torch.float64)
        if rank == size - 1:
            gradient[one.members[-1].stop - one.start :] = 0  # the padding
        weights = one.norm_weights(SHARDS)
        found = (gradient.view(len(weights), -1).square().sum(1) * weights).sum()
        expected = sum(
            gradient[start:stop].square().sum() / num_replicas
            for start, stop, num_replicas in one.norm_segments(SHARDS)
        )
        assert found == pytest.approx(float(expected), rel=1e-6)
        counts.add(len(weights))
    assert len(counts) == 1  # the same graph on all ranks
    if len(names) == 1:
        assert counts == {1}

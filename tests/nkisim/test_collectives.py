"""Collectives between simulated ranks."""

from typing import Any

import numpy as np
import pytest

from ndtrain import nkisim
from ndtrain.nkisim.errors import DeadlockError, HardwareLimit

from .kernels import hbm, load, nisa, nl, normal, sbuf, store

with nkisim.as_nki():
    import nki.collectives as ncc

RANKS = 4
XS = [normal(8, 16, seed=r) for r in range(RANKS)]
GROUP = ncc.ReplicaGroup([list(range(RANKS))])


def ranks(kernel: Any, *extra: Any, cores: int | None = None, xs: Any = XS) -> list[np.ndarray]:
    runs = nkisim.run_ranks(
        kernel, [((x, *extra), {}) for x in xs], cores=cores, target="trn2",
        options=nkisim.Options(check_python=False),
    )  # fmt: skip
    return [r.outputs for r in runs]


@pytest.mark.parametrize("space", ["sbuf", "hbm"])
def test_all_gather(space: str) -> None:
    def kernel(x: Any) -> Any:
        if space == "hbm":
            out = hbm((8 * RANKS, 16))
            ncc.all_gather([x], [out], GROUP, collective_dim=0)
            return out
        tile = sbuf((8, 16 * RANKS))
        ncc.all_gather([load(x)], [tile], GROUP, collective_dim=1)
        return store(tile)

    for got in ranks(kernel):
        np.testing.assert_array_equal(got, np.concatenate(XS, axis=0 if space == "hbm" else 1))


def test_all_reduce_and_reduce_scatter() -> None:
    def kernel(x: Any) -> Any:
        total, part, top = hbm((8, 16)), hbm((2, 16)), hbm((8, 16))
        ncc.all_reduce([x], [total], GROUP, nl.add)
        ncc.all_reduce([x], [top], GROUP, nl.maximum)
        ncc.reduce_scatter([x], [part], GROUP, collective_dim=0, op=nl.add)
        return total, part, top

    wanted = ((XS[0] + XS[1]) + XS[2]) + XS[3]
    for rank, (total, part, top) in enumerate(ranks(kernel)):
        np.testing.assert_array_equal(total, wanted)
        np.testing.assert_array_equal(part, wanted[2 * rank : 2 * rank + 2])
        np.testing.assert_array_equal(top, np.max(XS, axis=0))


def test_all_to_all_transposes_ranks_and_chunks() -> None:
    def kernel(x: Any) -> Any:
        out = hbm((8, 16))
        ncc.all_to_all([x], [out], GROUP, collective_dim=0)
        return out

    for rank, got in enumerate(ranks(kernel)):
        np.testing.assert_array_equal(got, np.concatenate([x[2 * rank : 2 * rank + 2] for x in XS]))


def test_groups_are_separate() -> None:
    pairs = ncc.ReplicaGroup(((0, 1), (2, 3)))

    def kernel(x: Any) -> Any:
        out = hbm((8, 16))
        ncc.all_reduce([x], [out], pairs, nl.add)
        return out

    got = ranks(kernel)
    np.testing.assert_array_equal(got[1], XS[0] + XS[1])
    np.testing.assert_array_equal(got[2], XS[2] + XS[3])


def test_permute_by_pairs() -> None:
    def kernel(x: Any) -> Any:
        out = hbm((8, 16))
        ncc.collective_permute([x], [out], [(0, 2), (1, 3), (2, 1), (3, 0)])
        return out

    for rank, source in enumerate((3, 2, 0, 1)):
        np.testing.assert_array_equal(ranks(kernel)[rank], XS[source])


def ring(x: Any, trusts_direction: bool = False) -> Any:
    """All-gather round the ring over two channels; the rank id says whose rows have arrived."""
    out = hbm((RANKS, 2, 4, 16))
    buffers = [hbm((2, 4, 16)), hbm((2, 4, 16))]
    nisa.dma_copy(buffers[0], x)
    for step in range(RANKS):
        for channel in range(2):
            rank = ncc.collective_permute_implicit_current_processing_rank_id(step, GROUP, channel)
            if trusts_direction:
                rank = (ncc.rank_id() - step) % RANKS
            nisa.dma_copy(
                out.ap([[16, 4], [1, 16]], offset=channel * 64, scalar_offset=rank,
                       indirect_dim=0),
                buffers[step % 2][channel],
            )  # fmt: skip
        if step + 1 < RANKS:
            now, then = buffers[step % 2], buffers[1 - step % 2]
            ncc.collective_permute_implicit(
                [[now[0]], [now[1]]], [[then[0]], [then[1]]], GROUP, channel_ids=[0, 1]
            )
    return out


def test_a_ring_kernel() -> None:
    for got in ranks(ring):
        np.testing.assert_array_equal(got.reshape(RANKS * 8, 16), np.concatenate(XS))


def test_a_ring_kernel_that_assumes_a_direction_is_wrong() -> None:
    got = ranks(lambda x: ring(x, trusts_direction=True))[0]
    assert not np.array_equal(got.reshape(RANKS * 8, 16), np.concatenate(XS))


def test_permute_with_a_reduction() -> None:
    def kernel(x: Any) -> Any:
        out = hbm((8, 16))
        ncc.collective_permute_implicit_reduce([[x]], [[x]], [[out]], GROUP, nl.add)
        return out

    for rank, got in enumerate(ranks(kernel)):
        np.testing.assert_array_equal(got, 2 * XS[rank - 1])


def test_two_cores_issue_one_collective_on_shared_hbm() -> None:
    """It also orders the cores: each reads afterwards what the other one wrote before."""

    def kernel(x: Any) -> Any:
        core, mine, out = nl.program_id(0), hbm((8, 16)), hbm((8 * RANKS, 16))
        rows = slice(4 * core, 4 * core + 4)
        nisa.dma_copy(mine[rows], x[rows])
        ncc.all_gather([mine], [out], GROUP, collective_dim=0)
        return out

    for got in ranks(kernel, cores=2):
        np.testing.assert_array_equal(got, np.concatenate(XS))


def test_two_cores_gather_their_own_sbuf() -> None:
    def kernel(x: Any) -> Any:
        core, out, tile = nl.program_id(0), hbm((2, 4, 16 * RANKS)), sbuf((4, 16 * RANKS))
        ncc.all_gather([load(x[4 * core : 4 * core + 4])], [tile], GROUP, collective_dim=1)
        nisa.dma_copy(out[core], tile)
        return out

    for got in ranks(kernel, cores=2):
        np.testing.assert_array_equal(got.reshape(8, -1), np.concatenate(XS, axis=1))


def test_a_collective_that_a_rank_skips_is_a_deadlock() -> None:
    def kernel(x: Any) -> None:
        if ncc.rank_id().value != 2:
            ncc.all_reduce([x], [hbm((8, 16))], GROUP, nl.add)

    with pytest.raises(DeadlockError, match="rank 0 core 0 at all_reduce"):
        ranks(kernel)


def test_ranks_that_issue_different_collectives() -> None:
    def kernel(x: Any) -> None:
        if ncc.rank_id().value == 2:
            ncc.all_to_all([x], [hbm((8, 16))], GROUP, 0)
        else:
            ncc.all_reduce([x], [hbm((8, 16))], GROUP, nl.add)

    with pytest.raises(HardwareLimit, match="all_reduce, all_to_all"):
        ranks(kernel)


REFUSED = [
    ("mixed memories", lambda x: ncc.all_reduce([x], [sbuf((8, 16))], GROUP, nl.add), "mixes"),
    ("operator", lambda x: ncc.all_reduce([x], [hbm((8, 16))], GROUP, nl.multiply), "maximum"),
    ("dimension", lambda x: ncc.all_gather([x], [hbm((8, 64))], GROUP, 1), "collective_dim"),
    ("size", lambda x: ncc.all_gather([x], [hbm((8, 16))], GROUP, 0), "destination"),
    ("one buffer", lambda x: ncc.collective_permute_implicit([[x]], [[x]], GROUP), "share memory"),
    ("channels", lambda x: ncc.collective_permute_implicit(
        [[x]], [[hbm((8, 16))]], GROUP, channel_ids=[1]), "without gaps"),
    ("foreign rank", lambda x: ncc.all_reduce(
        [x], [hbm((8, 16))], ncc.ReplicaGroup([[0, 1, 2, 3, 4]]), nl.add), "rank 4 of 4"),
    ("overlapping groups", lambda x: ncc.all_reduce(
        [x], [hbm((8, 16))], ncc.ReplicaGroup([[0, 1], [1, 2, 3]]), nl.add), "overlap"),
    ("priority", lambda x: ncc.all_reduce([x], [hbm((8, 16))], GROUP, nl.add, priority=1), "gen4"),
    ("SBUF all_to_all", lambda x: ncc.all_to_all([load(x)], [sbuf((8, 16))], GROUP, 0), "HBM"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "words"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_refused(body: Any, words: str) -> None:
    with pytest.raises(HardwareLimit, match=words):
        ranks(body)

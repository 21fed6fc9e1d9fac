"""Views: indexing rules, access patterns, reshapes; all share the storage."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ndtrain.nkisim.errors import HardwareLimit

from .kernels import hbm, load, nisa, nl, normal, run, sbuf, store


def view_of(
    x: np.ndarray, view: Callable[[Any], Any], *, on_chip: bool = True
) -> tuple[Any, tuple[int, ...]]:
    """The values that a DMA reads through `view`, and the view's shape."""
    shapes: list[tuple[int, ...]] = []

    def kernel(source: Any) -> Any:
        seen = view(load(source) if on_chip else source)
        shapes.append(seen.shape)
        out = hbm(seen.shape, seen.dtype)
        nisa.dma_copy(dst=out, src=seen)
        return out

    return run(kernel, x).outputs, shapes[0]


X3 = normal(64, 6, 8)
CASES: list[tuple[str, Callable[[Any], Any], Callable[[np.ndarray], np.ndarray]]] = [
    ("slice", lambda t: t[3:20, :, 2:8:3], lambda a: a[3:20, :, 2:8:3]),
    ("free int", lambda t: t[:, 2, :], lambda a: a[:, 2, :]),
    ("partition int", lambda t: t[5], lambda a: a[5:6]),
    ("negative", lambda t: t[:, -1, :], lambda a: a[:, -1, :]),
    ("ellipsis", lambda t: t[..., 0], lambda a: a[..., 0]),
    ("two dims kept", lambda t: t[:, 0, 3], lambda a: a[:, 0, 3:4]),
    ("ds", lambda t: t[nl.ds(32, 8), :, nl.ds(4, 2)], lambda a: a[32:40, :, 4:6]),
    ("slice()", lambda t: t.slice(1, 1, 5, 2), lambda a: a[:, 1:5:2]),
    ("select", lambda t: t.select(2, 3), lambda a: a[:, :, 3]),
    ("permute", lambda t: t.permute((0, 2, 1)), lambda a: a.transpose(0, 2, 1)),
    ("reshape", lambda t: t.reshape((64, 48)), lambda a: a.reshape(64, 48)),
    ("split", lambda t: t.reshape_dim(2, (2, -1)), lambda a: a.reshape(64, 6, 2, 4)),
    ("flatten", lambda t: t.flatten_dims(1, 2), lambda a: a.reshape(64, 48)),
    ("expand", lambda t: t.expand_dim(1), lambda a: a[:, None]),
    ("squeeze", lambda t: t[:, 0:1].squeeze_dim(1), lambda a: a[:, 0]),
    ("broadcast", lambda t: t[:, 0:1].broadcast(1, 5), lambda a: np.repeat(a[:, :1], 5, 1)),
    ("rearrange", lambda t: t.rearrange(("p", ("a", "b"), "c"), ("p", "c", "b", "a"), {"a": 2}),
     lambda a: a.reshape(64, 2, 3, 8).transpose(0, 3, 2, 1)),
    ("ap", lambda t: t.ap(pattern=[[48, 32], [1, 4], [8, 6]], offset=2),
     lambda a: a.reshape(64, 48)[:32, 2:].reshape(32, 46)[:, np.arange(4)[:, None]
                                                         + 8 * np.arange(6)]),
    ("ap inherits the offset", lambda t: t[:, 1].ap(pattern=[[48, 64], [1, 8]]),
     lambda a: a[:, 1]),
    ("ap backwards", lambda t: t.ap(pattern=[[48, 64], [-1, 8]], offset=7),
     lambda a: a[:, 0, ::-1]),
    ("view chain", lambda t: t[0:32].permute((0, 2, 1))[:, 0, :], lambda a: a[:32, :, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("view", "wanted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_view_reads_what_numpy_reads(view: Callable, wanted: Callable) -> None:
    got, shape = view_of(X3, view)
    np.testing.assert_array_equal(got, wanted(X3))
    assert shape == wanted(X3).shape


def test_hbm_drops_an_indexed_dimension() -> None:
    got, shape = view_of(X3, lambda t: t[3], on_chip=False)
    assert shape == (6, 8)
    np.testing.assert_array_equal(got, X3[3])


def test_a_bit_view_rescales_the_last_dimension() -> None:
    got, shape = view_of(X3[:, 0].copy(), lambda t: t.view(nl.uint8))
    assert shape == (64, 32)
    np.testing.assert_array_equal(got, X3[:, 0].copy().view(np.uint8))


def test_writes_through_one_view_show_in_another() -> None:
    def kernel(x: Any) -> Any:
        tile = load(x)
        nisa.memset(dst=tile.reshape((64, 4, 12))[:, 1, :], value=7.0)
        return store(tile)

    x = normal(64, 48)
    wanted = x.copy()
    wanted[:, 12:24] = 7
    np.testing.assert_array_equal(run(kernel, x).outputs, wanted)


def test_attributes_describe_the_view() -> None:
    def kernel() -> None:
        tile = sbuf((128, 64), nl.bfloat16, name="weights")
        view = tile[32:64, 8:24]
        assert (view.shape, view.strides, view.offset) == ((32, 16), (64, 1), 32 * 64 + 8)
        assert (view.ndim, view.size, view.name) == (2, 512, "weights")
        assert view.dtype == nl.bfloat16
        assert view.buffer == nl.sbuf
        assert view.get_pattern() == [[64, 32], [1, 16]]
        assert tile.is_contiguous()
        assert not view[:, ::2].is_contiguous()
        assert not view.is_indirect()

    run(kernel)


REFUSED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("index outside", lambda t: t[:, 9], "outside dim 1"),
    ("slice outside", lambda t: t[:, 0:7], "outside dim 1"),
    ("empty slice", lambda t: t[:, 3:3], "empty"),
    ("negative step", lambda t: t[:, 5:0:-1], "positive"),
    ("too many indices", lambda t: t[0, 0, 0, 0], "4 indices"),
    ("array index", lambda t: t[np.arange(3)], "ndarray"),
    ("move the partition", lambda t: t.permute((1, 0, 2)), "partition"),
    ("reshape the partition", lambda t: t.reshape((32, 96)), "partition"),
    ("reshape count", lambda t: t.reshape((64, 47)), "do not make up"),
    ("broadcast the partition", lambda t: t[0:1].broadcast(0, 64), "partition"),
    ("broadcast a real size", lambda t: t.broadcast(1, 12), "size 1"),
    ("flatten a permutation", lambda t: t.permute((0, 2, 1)).flatten_dims(1, 2), "contiguous"),
    ("reshape a slice", lambda t: t[:, 0:3, 0:4].reshape((64, 12)), "no view"),
    ("partition stride", lambda t: t.ap(pattern=[[96, 32], [1, 48]]), "partition stride"),
    ("pattern outside", lambda t: t.ap(pattern=[[48, 64], [1, 49]]), "leaves the tensor"),
    ("pattern before", lambda t: t.ap([[48, 32], [1, 48]], offset=-32 * 48), "leaves the tensor"),
    ("steps back out", lambda t: t.ap([[48, 64], [-1, 4]], offset=2), "leaves the tensor"),
    ("steps out and back", lambda t: t.ap([[48, 64], [1, 44], [-1, 8]], offset=8), "leaves the"),
    (
        "elements wider than a row",
        lambda t: sbuf((4, 1), nl.uint8).ap([[0, 4], [1, 1]], dtype=nl.float32),
        "leaves the tensor",
    ),
    ("six dimensions", lambda t: t.reshape_dim(2, (2, 2, 2)).expand_dim(1), "limit is 5"),
    ("assignment", lambda t: t.__setitem__(0, 1.0), "cannot be assigned"),
    ("truth", bool, "not known"),
]


@pytest.mark.parametrize(("view", "words"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_view_that_the_hardware_cannot_express(view: Callable, words: str) -> None:
    with pytest.raises(HardwareLimit, match=words) as caught:
        view_of(X3, view)
    assert "test_tensor.py" in caught.value.where


def test_a_pattern_that_steps_back_covers_the_bytes_it_reads() -> None:
    def kernel() -> None:
        tile = sbuf((4, 48))
        nisa.memset(tile, 0)
        nisa.tensor_copy(sbuf((4, 8)), tile.ap([[48, 4], [-1, 8]], offset=15))

    _, copy = run(kernel).stream.instructions
    assert copy.reads[0].extent() == (0, 4, 8 * 4, 16 * 4)

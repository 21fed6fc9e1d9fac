"""NKI 0.2: its names, its argument lists, and nothing that came later."""

from typing import Any

import numpy as np
import pytest

from ndtrain import nkisim
from ndtrain.nkisim import api
from ndtrain.nkisim.errors import ApiError

with nkisim.as_nki("0.2"):
    import nki
    import nki.isa as nisa
    import nki.language as nl

X = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def run(body: Any, *arrays: np.ndarray) -> Any:
    kernel = nki.jit(body)
    options = nkisim.Options(check_python=False)
    return nkisim.run(kernel, *arrays, target="trn1", options=options).outputs


def load(x: Any) -> Any:
    tile = nl.ndarray(x.shape, x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    return tile


def test_affine_select_takes_the_offset_third() -> None:
    def kernel(x: Any) -> Any:
        tile = load(x)
        nisa.affine_select(tile, [[-1, 64]], 3, 1, tile, 0.0, nl.greater_equal)
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=tile)
        return out

    np.testing.assert_array_equal(run(kernel, X), np.tril(X, 3))


def test_a_result_may_be_in_plain_hbm() -> None:
    def kernel(x: Any) -> Any:
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.hbm)
        nisa.dma_copy(dst=out, src=load(x))
        return out

    np.testing.assert_array_equal(run(kernel, X), X)


def test_inferred_accumulation_is_the_only_one() -> None:
    def kernel(x: Any) -> Any:
        tile, bank = load(x), nl.ndarray((64, 64), nl.float32, buffer=nl.psum)
        for _ in range(2):
            nisa.nc_matmul(bank, tile, tile)
        nisa.tensor_copy(tile, bank)
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=tile)
        return out

    np.testing.assert_allclose(run(kernel, X), 2 * X.T @ X, rtol=1e-5, atol=1e-4)


LATER = [
    ("accumulate", lambda x: nisa.nc_matmul(
        nl.ndarray((64, 64), nl.float32, buffer=nl.psum), load(x), load(x), accumulate=False)),
    ("load", lambda x: nl.load(x)),
    ("call of an operator", lambda x: nl.add(load(x), load(x))),
    ("permute", lambda x: x.permute((1, 0))),
    ("select", lambda x: x.select(0, 1)),
    ("view", lambda x: x.view(nl.int32)),
    ("fori_loop", lambda x: nl.fori_loop(0, 2, print)),
    ("no_reorder", lambda x: nl.no_reorder()),
    ("topk", lambda x: nisa.topk()),
    ("dma engine", lambda x: nisa.dma_copy(dst=load(x), src=x, engine=nisa.engine.sync)),
    ("reduce_cmd", lambda x: nisa.tensor_scalar_reduce(
        load(x), load(x), nl.add, 1.0, nl.add, load(x)[:, 0:1],
        reduce_cmd=nisa.reduce_cmd.reduce)),
]  # fmt: skip


@pytest.mark.parametrize("body", [c[1] for c in LATER], ids=[c[0] for c in LATER])
def test_what_came_later_is_refused(body: Any) -> None:
    with pytest.raises(ApiError, match=r"0\.2") as caught:
        run(body, X)
    assert "test_legacy.py:" in caught.value.where


def test_simulate_came_later() -> None:
    for name in ("simulate", "typing"):
        with pytest.raises(ApiError, match=name):
            getattr(nki, name)


def test_the_list_of_names_is_shorter() -> None:
    old = {(n.module, n.name) for n in api.names("0.2")}
    new = {(n.module, n.name) for n in api.names("0.6")}
    assert old < new
    assert ("nki.isa", "topk") in new - old

"""Functions of nki.language that are made of instructions; loops and registers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ndtrain.nkisim.errors import HardwareLimit

from .kernels import BF16, hbm, load, nisa, nki, nl, normal, run, sbuf, store

X, Y = normal(64, 32), normal(64, 32, seed=1)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


CASES: list[tuple[str, Callable, np.ndarray]] = [
    ("add", lambda x, y: nl.add(x, y), X + Y),
    ("scalar left", lambda x, y: nl.subtract(1.0, x), 1 - X),
    ("scalar less", lambda x, y: nl.less(0.5, x), (X > 0.5).astype(np.float32)),
    ("column", lambda x, y: nl.multiply(x, y[:, 0:1]), X * Y[:, :1]),
    ("column left", lambda x, y: nl.subtract(y[:, 0:1], x), Y[:, :1] - X),
    ("sum", lambda x, y: nl.sum(x, 1, keepdims=True), X.sum(1, keepdims=True)),
    ("max", lambda x, y: nl.max(x, axis=[1], keepdims=True), X.max(1, keepdims=True)),
    ("mean", lambda x, y: nl.mean(x, 1, keepdims=True), X.mean(1, keepdims=True)),
    ("var", lambda x, y: nl.var(x, 1, keepdims=True), X.var(1, keepdims=True)),
    ("softmax", lambda x, y: nl.softmax(x), softmax(X)),
    ("where", lambda x, y: nl.where(nl.greater(x, 0.0), x, y), np.where(X > 0, X, Y)),
    ("floor", lambda x, y: nl.floor(x), np.floor(X)),
    ("ceil", lambda x, y: nl.ceil(x), np.ceil(X)),
    ("trunc", lambda x, y: nl.trunc(x), np.trunc(X)),
    ("negative", lambda x, y: nl.negative(x), -X),
    ("tan", lambda x, y: nl.tan(nl.multiply(x, 0.2)), np.tan(X * np.float32(0.2))),
    ("rsqrt", lambda x, y: nl.rsqrt(nl.square(x)), 1 / np.abs(X)),
    ("reciprocal", lambda x, y: nl.reciprocal(x), 1 / X),
    ("matmul", lambda x, y: nl.copy(nl.matmul(x, nl.copy(nl.transpose(y)))), X @ Y.T),
    ("matmul transposed", lambda x, y: nl.copy(nl.matmul(x, y, transpose_x=True)), X.T @ Y),
    ("transpose", lambda x, y: nl.copy(nl.transpose(x)), X.T),
    ("broadcast", lambda x, y: nl.broadcast_to(x[3:4, :], (64, 32)), np.repeat(X[3:4], 64, 0)),
    ("full", lambda x, y: nl.full((64, 32), 2.5, nl.float32), np.full((64, 32), 2.5)),
    ("zeros_like", lambda x, y: nl.zeros_like(x), 0 * X),
    ("identity", lambda x, y: nl.shared_identity_matrix(64, nl.float32), np.eye(64)),
    ("logical_not", lambda x, y: nl.logical_not(nl.less(x, 0.0)), X >= 0),
]  # fmt: skip


@pytest.mark.parametrize(("body", "wanted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_function_matches_numpy(body: Callable, wanted: np.ndarray) -> None:
    got = run(lambda x, y: store(body(nl.load(x), nl.load(y))), X, Y).outputs
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_the_result_dtype_can_be_asked_for() -> None:
    got = run(lambda x: store(nl.exp(nl.load(x), dtype=nl.bfloat16)), X).outputs
    np.testing.assert_array_equal(got, np.exp(X).astype(BF16))


def test_a_constant_is_defined_data() -> None:
    table = np.arange(64, dtype=np.float32).reshape(4, 16)
    np.testing.assert_array_equal(run(lambda: store(nl.load(nl.shared_constant(table)))).outputs,
                                  table)  # fmt: skip


def test_fori_loop_runs_to_a_register() -> None:
    def kernel(x: Any, count: Any) -> Any:
        out, bound, tile = hbm((8, 16)), nisa.register_alloc(), sbuf((1, 16))
        nisa.register_load(bound, load(count))

        def body(i: Any) -> None:
            nisa.dma_copy(tile, x.ap([[16, 1], [1, 16]], scalar_offset=i, indirect_dim=0))
            nisa.dma_copy(out.ap([[16, 1], [1, 16]], scalar_offset=i, indirect_dim=0), tile)

        nl.fori_loop(0, bound, body)
        return out

    x = normal(8, 16)
    got = run(kernel, x, np.array([[8]], np.int32)).outputs
    np.testing.assert_array_equal(got, x)


def test_while_loop_counts_down_in_memory() -> None:
    def kernel(count: Any) -> Any:
        left, one, total = load(count), sbuf((1, 1), nl.int32), sbuf((1, 1), nl.int32)
        nisa.memset(one, 1)
        nisa.memset(total, 0)
        register = nisa.register_alloc()
        nisa.register_load(register, left)

        def body(r: Any) -> Any:
            nisa.tensor_tensor(total, total, one, nl.add)
            nisa.tensor_tensor(left, left, one, nl.subtract)
            nisa.register_load(r, left)
            return r

        nl.while_loop(register, body)
        return store(total)

    assert run(kernel, np.array([[5]], np.int32)).outputs == 5


def test_a_register_stores_its_arithmetic() -> None:
    def kernel() -> Any:
        register = nisa.register_alloc(3)
        nisa.register_move(register, register * 4 + 1)
        out = sbuf((1, 1), nl.int32)
        nisa.register_store(out, register)
        return store(out)

    assert run(kernel).outputs == 13


def test_a_register_has_no_value_while_the_kernel_is_built() -> None:
    def kernel() -> None:
        range(nisa.register_alloc(3))

    with pytest.raises(TypeError, match="no value"):
        run(kernel)


def test_the_induction_variable_cannot_be_written() -> None:
    def kernel() -> None:
        for i in nl.dynamic_range(3):
            nisa.register_move(i, 0)

    with pytest.raises(AssertionError, match="induction variable"):
        run(kernel)


@pytest.mark.parametrize("name", ["affine_range", "sequential_range", "static_range"])
def test_static_ranges_take_no_register(name: str) -> None:
    with pytest.raises(HardwareLimit, match="fori_loop"):
        run(lambda: list(getattr(nl, name)(nisa.register_alloc(3))))


def test_tile_sizes_follow_the_target() -> None:
    seen = {}

    def kernel() -> None:
        seen[nisa.get_nc_version()] = nl.tile_size.sbuf_fmax_bytes

    for target in ("trn1", "trn2", "trn3"):
        run(kernel, target=target)
    assert seen == {2: 192 * 1024, 3: 224 * 1024, 4: 256 * 1024}
    assert nl.tile_size.psum_bank_fmax == nl.tile_size.gemm_moving_fmax == 512


def test_nki_objects_take_plain_attributes_as_fields() -> None:
    import dataclasses

    @dataclasses.dataclass
    class Decorated(nl.NKIObject):
        rows = None
        columns: int = 4

    class Plain(nl.NKIObject):
        rows: int
        columns: int = 4

    assert Decorated(rows=3).rows == 3
    assert (Plain(2).rows, Plain(2).columns) == (2, 4)


def test_jit_takes_no_target() -> None:
    from ndtrain.nkisim.errors import ApiError

    assert nki.jit(mode="trace")(len).function is len
    with pytest.raises(ApiError, match="platform_target"):
        nki.jit(platform_target="trn1")

"""Kernels of AWS, unmodified, from checkouts that the user names.

Run with NDTRAIN_NEURON_SDK at commit 81ce03ae261e12925e53437a0f690478e6366155, NDTRAIN_NKI_LIBRARY
at d2ad3a579498d1888aa8740af97fd325dd5f2740, NDTRAIN_NKI_SAMPLES at
6905a68a122f937e68403727759f035ddd144f95. Without them these tests are skipped.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndtrain import nkisim
from ndtrain.nkisim.errors import HardwareLimit

from .kernels import BF16, normal
from .third_party import LIBRARY, SAMPLES, SDK, checkout, library_module, load

EXAMPLES = Path("nki/examples")
TUTORIALS = Path("src/nki_samples/tutorials")
MATMUL = Path("matrix_multiplication/matrix_multiplication_nki_kernels.py")
SHAPES = {  # kernel: (K, M, N)
    "nki_matmul_basic_": (128, 64, 512),
    "nki_matmul_tiled_": (256, 256, 1024),
    "nki_matmul_hoist_load_": (256, 256, 1024),
    "nki_matmul_block_free_dimension_": (256, 512, 1024),
    "nki_matmul_fully_optimized_": (1024, 2048, 1024),
}


def example(name: str) -> Any:
    return load(checkout(SDK) / EXAMPLES / name)


@pytest.mark.parametrize("variable", [SDK, SAMPLES])
@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("name", SHAPES)
def test_matmul(variable: str, target: str, name: str) -> None:
    folder = checkout(variable) / (EXAMPLES if variable == SDK else TUTORIALS)
    depth, rows, columns = SHAPES[name]
    a, b = normal(depth, rows, dtype=BF16), normal(depth, columns, seed=1, dtype=BF16)
    got = nkisim.run(getattr(load(folder / MATMUL), name), a, b, target=target).outputs
    wanted = a.astype(np.float64).T @ b.astype(np.float64)
    # A bf16 result has 8 bits; blocks of K add one more rounding each in the last kernel.
    np.testing.assert_allclose(got.astype(np.float64), wanted, rtol=2**-7, atol=2**-8 * depth**0.5)


def test_tensor_addition() -> None:
    a, b = normal(256, 1024), normal(256, 1024, seed=1)
    kernel = example("tensor_addition/tensor_addition_nki_kernels.py").nki_tensor_add
    np.testing.assert_array_equal(nkisim.run(kernel, a, b, target="trn2").outputs, a + b)


def test_transpose2d() -> None:
    x = normal(128, 54)
    kernel = example("transpose2d/transpose2d_nki_kernels.py").tensor_transpose2D_kernel_
    got = nkisim.run(kernel, x, (6, 9), target="trn2").outputs
    np.testing.assert_array_equal(got, x.reshape(128, 6, 9).transpose(0, 2, 1).reshape(128, 54))


def test_average_pool2d() -> None:
    x, module = normal(4, 8, 8), example("average_pool2d/average_pool2d_nki_kernels.py")
    got = nkisim.run(module.tensor_avgpool_kernel, x, 2, target="trn2").outputs
    np.testing.assert_allclose(got, module.np_average_pool_2D(x, 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("version", ["mamba_v1", "mamba_v2", "mamba_v3"])
def test_fused_mamba(version: str) -> None:
    channels, length, states = 256, 512, 4
    delta, u = np.abs(normal(1, channels, length)) / 10, normal(1, channels, length, seed=1)
    decay = -np.abs(normal(channels, states, seed=2))
    b, c = normal(1, states, length, seed=3), normal(1, states, length, seed=4)
    state, wanted = np.zeros((1, channels, states)), np.zeros(u.shape)
    for i in range(length):
        step = delta[..., i, None]
        state = np.exp(step * decay) * state + step * b[:, None, :, i] * u[..., i, None]
        wanted[..., i] = (state * c[:, None, :, i]).sum(2)
    kernel = getattr(example("fused_mamba/mamba_nki_kernels.py"), version)
    got = nkisim.run(kernel, delta, u, decay, b, c, target="trn2").outputs
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_example_of_the_simulator_guide_checks_itself() -> None:
    example("simulate/nki_simulate_example.py")


@pytest.mark.parametrize(
    ("file", "kernel", "shape", "extra"),
    [("index-case-1.py", "tensor_split_kernel_", (128, 512), ()),
     ("index-case-3.py", "tensor_maxpool_kernel_", (128, 64, 64), (2,)),
     ("layout-pass.py", "tensor_exp_kernel_", (128, 512), ())],
)  # fmt: skip
def test_small_examples(file: str, kernel: str, shape: tuple, extra: tuple) -> None:
    x = normal(*shape)
    got = nkisim.run(getattr(example(file), kernel), x, *extra, target="trn2").outputs
    if file == "index-case-1.py":
        np.testing.assert_array_equal(got[0], x[:, 0::2])
        np.testing.assert_array_equal(got[1], x[:, 1::2])
    elif file == "index-case-3.py":
        np.testing.assert_array_equal(got, x.reshape(128, 32, 2, 32, 2).max((2, 4)))
    else:
        np.testing.assert_allclose(got, np.exp(x), rtol=1e-6)


def test_the_example_that_is_meant_to_fail_fails() -> None:
    kernel = example("layout-violation.py").tensor_exp_kernel_
    with pytest.raises(HardwareLimit, match="256"):
        nkisim.run(kernel, normal(256, 512), target="trn2")


class Problem:
    """Causal attention in float64, layouts (heads, d, S)."""

    def __init__(self, sequence: int, heads: int = 2, dim: int = 128) -> None:
        self.sequence, self.dim, self.heads = sequence, dim, heads
        self.q, self.dy = (normal(heads, dim, sequence, seed=s, dtype=BF16) for s in (0, 3))
        self.k, self.v = (normal(1, dim, sequence, seed=s, dtype=BF16) for s in (1, 2))
        q, k, v = (x.astype(np.float64) for x in (self.q, self.k, self.v))
        scores = np.einsum("hds,kdt->hst", q, k) * dim**-0.5
        scores[:, ~np.tri(sequence, dtype=bool)] = -np.inf
        top = scores.max(-1, keepdims=True)
        self.lse = (top + np.log(np.exp(scores - top).sum(-1, keepdims=True)))[..., 0]
        self.p = np.exp(scores - self.lse[..., None])
        self.out = np.einsum("hst,kdt->hds", self.p, v)

    def gradients(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        q, k, v, dy = (x.astype(np.float64) for x in (self.q, self.k, self.v, self.dy))
        dp = np.einsum("hds,kdt->hst", dy, v)
        ds = self.p * (dp - (dy * self.out).sum(1)[..., None]) * self.dim**-0.5
        return (
            np.einsum("hst,kdt->hds", ds, k),
            np.einsum("hst,hds->dt", ds, q)[None],
            np.einsum("hst,hds->dt", self.p, dy)[None],
        )


def tiles(x: np.ndarray) -> np.ndarray:
    """[..., S] as [..., 128, S / 128], token 128 t + p at [p, t]."""
    return np.ascontiguousarray(np.moveaxis(x.reshape(*x.shape[:-1], -1, 128), -1, -2))


@pytest.mark.parametrize("cores", [None, 2])
def test_attention_cte(cores: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = library_module("core.attention.attention_cte", monkeypatch)
    problem = Problem(640)
    v = np.ascontiguousarray(problem.v.transpose(0, 2, 1))
    out, negative_max, reciprocal_sum = nkisim.run(
        module.attention_cte, problem.q, problem.k, v, scale=problem.dim**-0.5, causal_mask=True,
        tp_q=False, tp_k=False, tp_out=True, cache_softmax=True, cores=cores, target="trn2",
    ).outputs  # fmt: skip
    np.testing.assert_allclose(out.astype(np.float64), problem.out, atol=2e-2)
    np.testing.assert_allclose(
        -negative_max - np.log(reciprocal_sum), tiles(problem.lse), atol=1e-5
    )


S = 640
Q_INDEX, K_INDEX = np.arange(S)[:, None], np.arange(S)[None, :]
SEGMENTS = np.array([0] * 300 + [1] * 340)
BOUNDS = {
    "bound_min": np.array([0] * 300 + [300] * 340, np.float32)[:, None],
    "bound_max": np.array([300] * 300 + [640] * 340, np.float32)[:, None],
}
MASKS: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "none": ({"causal_mask": False}, K_INDEX >= 0),
    "causal": ({}, K_INDEX <= Q_INDEX),
    "window": ({"sliding_window": 200}, (K_INDEX <= Q_INDEX) & (Q_INDEX - K_INDEX < 200)),
    "packed": (BOUNDS, (K_INDEX <= Q_INDEX) & (SEGMENTS[:, None] == SEGMENTS[None])),
    "second context-parallel half": (
        {"cp_offset": np.array([[320]], np.int32), "global_cp_deg": 2},
        Q_INDEX[:320] + 320 >= K_INDEX,
    ),
}


@pytest.mark.parametrize("target", ["trn2", "trn3"])
@pytest.mark.parametrize("name", MASKS)
def test_attention_cte_masks(name: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = library_module("core.attention.attention_cte", monkeypatch)
    options, mask = MASKS[name]
    q = normal(1, len(mask), 64, dtype=BF16)
    k, v = normal(1, 64, S, seed=1, dtype=BF16), normal(1, S, 64, seed=2, dtype=BF16)
    got = nkisim.run(
        module.attention_cte, q, k, v, target=target, **{"causal_mask": True} | options
    ).outputs
    scores = np.where(mask, q[0].astype(np.float64) @ k[0].astype(np.float64), -np.inf)
    p = np.exp(scores - scores.max(1, keepdims=True))
    wanted = p / p.sum(1, keepdims=True) @ v[0].astype(np.float64)
    np.testing.assert_allclose(got[0].astype(np.float64), wanted, atol=3e-2)


@pytest.mark.parametrize("cores", [None, 2])
def test_attention_bwd(cores: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = library_module("core.attention.attention_bwd", monkeypatch)
    problem = Problem(512)
    gradients = nkisim.run(
        module.attention_bwd, *(x[None] for x in (problem.q, problem.k, problem.v)),
        problem.out.astype(BF16)[None], problem.dy[None],
        tiles(problem.lse).astype(np.float32)[None], use_causal_mask=True, mixed_precision=True,
        softmax_scale=problem.dim**-0.5, cores=cores, target="trn2",
    ).outputs  # fmt: skip
    for got, wanted in zip(gradients, problem.gradients(), strict=True):
        error = np.abs(got[0].astype(np.float64) - wanted).max() / np.abs(wanted).max()
        assert error < 1e-2


@pytest.mark.parametrize("cores", [None, 2])
@pytest.mark.parametrize("in_hbm", [False, True])
def test_ring_all_gather(in_hbm: bool, cores: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = library_module("experimental.collectives.fg_allgather", monkeypatch)
    xs = [normal(128, 128, seed=r, dtype=BF16) for r in range(4)]
    how = {"tp_degree": 4, "num_groups": 1, "force_hbm_cc": in_hbm}
    runs = nkisim.run_ranks(
        module.fine_grained_allgather, [((x,), how) for x in xs], cores=cores, target="trn2"
    )
    for run in runs:
        np.testing.assert_array_equal(run.outputs.reshape(512, 128), np.concatenate(xs))


@pytest.mark.parametrize("cores", [None, 2])
def test_ring_all_gather_with_matmul(cores: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = library_module("experimental.collectives.fgcc", monkeypatch)
    xs = [normal(128, 128, seed=r, dtype=BF16) for r in range(4)]
    ws = [normal(128, 512, seed=9 + r, dtype=BF16) for r in range(4)]
    how = {"tp_degree": 4, "num_groups": 1}
    runs = nkisim.run_ranks(
        module.allgather_compute_matmul, [(pair, how) for pair in zip(xs, ws, strict=True)],
        cores=cores, target="trn2",
    )  # fmt: skip
    wanted = np.concatenate(xs).astype(np.float64) @ ws[1].astype(np.float64)
    got = runs[1].outputs.astype(np.float64).reshape(wanted.shape)
    np.testing.assert_allclose(got, wanted, rtol=2**-7, atol=0.1)


def test_the_variables_are_named_in_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIBRARY, raising=False)
    with pytest.raises(pytest.skip.Exception, match=LIBRARY):
        checkout(LIBRARY)

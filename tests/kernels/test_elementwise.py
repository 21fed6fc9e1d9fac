"""RMSNorm, QK-norm with RoPE and SwiGLU in fp32 against float64, at the edges of their tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ndtrain import nkisim
from tests.kernels.kernel_cases import BF16, normal, reference, relative_errors, run, wide

BOUND = 2e-6
ROWS = [1, 127, 128, 129]


def check(name: str, *arrays: np.ndarray, **how: Any) -> Any:
    """Compares all results with the reference and returns them."""
    ours = run(name, *arrays, **how).outputs
    wanted = reference(name)(*wide(*arrays))
    pair = (ours, wanted) if isinstance(ours, tuple) else ((ours,), (wanted,))
    assert max(relative_errors(*pair)) < BOUND
    return ours


def norm_inputs(rows: int, hidden: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return normal(0, (rows, 1, hidden)), normal(1, (hidden,)), normal(2, (rows, 1, hidden))


@pytest.mark.parametrize("rows", ROWS)
def test_rmsnorm_rows(rows: int, target: str) -> None:
    x, weight, dy = norm_inputs(rows, 128)
    _, inverse_rms = check("rmsnorm_forward", x, weight, target=target)
    check("rmsnorm_backward", dy, x, weight, np.asarray(inverse_rms), target=target)


@pytest.mark.parametrize("hidden", [1024, 2048, 2176, 5120])
def test_rmsnorm_hidden(hidden: int) -> None:
    x, weight, dy = norm_inputs(130, hidden)
    _, inverse_rms = check("rmsnorm_forward", x, weight, target="trn2")
    check("rmsnorm_backward", dy, x, weight, np.asarray(inverse_rms), target="trn2")


@pytest.mark.parametrize("rows", [1, 128, 300])
def test_two_cores(rows: int) -> None:
    """Also where the second core has no rows: its part of dweight is zero."""
    x, weight, dy = norm_inputs(rows, 256)
    how = {"cores": 2, "target": "trn2"}
    _, inverse_rms = check("rmsnorm_forward", x, weight, **how)
    check("rmsnorm_backward", dy, x, weight, np.asarray(inverse_rms), **how)
    check("swiglu_forward", normal(3, (rows, 60)), **how)
    check("swiglu_backward", normal(4, (rows, 30)), normal(3, (rows, 60)), **how)
    arguments = rope_inputs(rows, 1, 2, 1, 32)
    check("qk_norm_rope_forward", *arguments[2:], **how)
    check("qk_norm_rope_backward", *arguments, **how)


def test_eps_counts() -> None:
    x = normal(0, (4, 128)) * 1e-3
    weight = np.ones(128, np.float32)
    ours = run("rmsnorm_forward", x, weight, 1e-2).outputs
    wanted = reference("rmsnorm_forward")(*wide(x, weight), 1e-2)
    assert max(relative_errors(ours, wanted)) < BOUND
    assert np.max(np.abs(ours[0])) < 0.1


@pytest.mark.parametrize("rows", ROWS)
def test_swiglu_rows(rows: int, target: str) -> None:
    gate_up, dy = normal(0, (rows, 1, 10)), normal(1, (rows, 1, 5))
    check("swiglu_forward", gate_up, target=target)
    check("swiglu_backward", dy, gate_up, target=target)


@pytest.mark.parametrize("features", [2047, 2048, 2049])
def test_swiglu_features(features: int) -> None:
    gate_up, dy = normal(0, (2, 2 * features)), normal(1, (2, features))
    check("swiglu_forward", gate_up, target="trn2")
    check("swiglu_backward", dy, gate_up, target="trn2")


def test_swiglu_far_out() -> None:
    """Gates where exp would overflow in the textbook formula."""
    gate_up = np.array([[-200.0, -30.0, 30.0, 200.0, 1.0, 1.0, 1.0, 1.0]], np.float32)
    check("swiglu_forward", gate_up)
    check("swiglu_backward", np.ones((1, 4), np.float32), gate_up)


def rope_inputs(
    rows: int, batch: int, heads: int, kv_heads: int, dim: int
) -> tuple[np.ndarray, ...]:
    """dq_out, dk_out, q, k, their weights, cos, sin."""
    q, k = (rows, batch, heads, dim), (rows, batch, kv_heads, dim)
    shapes = [q, k, q, k, (dim,), (dim,)]
    angles = normal(9, (rows, batch, 1, dim // 2))
    arrays = [normal(i, shape) for i, shape in enumerate(shapes)]
    return (*arrays, np.cos(angles), np.sin(angles))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 64),
        (127, 2, 2, 1, 64),
        (129, 1, 2, 1, 128),
        (20, 1, 17, 16, 64),
        (5, 3, 4, 4, 2),
    ],
)
def test_qk_norm_rope(shape: tuple[int, int, int, int, int], target: str) -> None:
    arguments = rope_inputs(*shape)
    check("qk_norm_rope_forward", *arguments[2:], target=target)
    check("qk_norm_rope_backward", *arguments, target=target)


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("rmsnorm_forward", [(4, 100), (100,)], "multiple of 128"),
        ("rmsnorm_forward", [(4, 8320), (8320,)], "at most 8192"),
        ("rmsnorm_forward", [(4, 128), (64,)], "weight must be"),
        ("rmsnorm_backward", [(4, 128), (5, 128), (128,), (5, 1)], "shape of x"),
        ("rmsnorm_backward", [(4, 128), (4, 128), (128,), (5, 1)], "one number for each"),
        ("swiglu_forward", [(4, 5)], "2F"),
        ("swiglu_backward", [(4, 5), (4, 12)], "dy must be"),
        (
            "qk_norm_rope_forward",
            [(4, 1, 2, 64), (4, 1, 2, 64), (64,), (64,), (4, 1, 1, 64), (4, 1, 1, 64)],
            "cos must be",
        ),
        (
            "qk_norm_rope_forward",
            [(4, 1, 2, 130), (4, 1, 2, 130), (130,), (130,), (4, 1, 1, 65), (4, 1, 1, 65)],
            "at most 128",
        ),
    ],
)
def test_bad_arguments_are_named(name: str, shapes: list[tuple[int, ...]], message: str) -> None:
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(AssertionError, match=message):
        run(name, *arrays)


def test_float16_is_refused() -> None:
    with pytest.raises(AssertionError, match="bfloat16 or float32"):
        run("swiglu_forward", np.zeros((4, 4), np.float16))


def test_largest_hidden_fits_gen2() -> None:
    """SBUF capacity at the documented limit, with an fp32 weight; nothing is computed."""
    x, weight = np.zeros((128, 8192), BF16), np.zeros(8192, np.float32)
    settings = nkisim.Options(arithmetic=False)
    arguments = (x, x, weight, np.zeros((128, 1), np.float32))
    run("rmsnorm_backward", *arguments, target="trn1", options=settings)

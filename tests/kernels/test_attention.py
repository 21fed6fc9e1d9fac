"""The attention kernels on the simulator against the float64 reference.

In fp32 the only errors are those of fp32 sums, so that a wrong mask, tile or flag cannot hide.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from ndtrain import nkisim
from tests.kernels.kernel_cases import (
    BF16,
    Attention,
    documents,
    kernel,
    reference,
    relative_errors,
    run,
    wide,
)

FP32_BOUND = 6e-6

MASKS: dict[str, dict[str, Any]] = {
    "causal": {},
    "documents": {"starts": 2},
    "window": {"window": 100},
    "window of one key": {"window": 1},
    "documents in a window": {"starts": 2, "window": 70},
    "offset": {"offset": 43},
    "offset in a window": {"offset": 300, "window": 129},
    "all keys visible": {"offset": 1000},
    "first rows see nothing": {"offset": -131},
    "no row sees a key": {"offset": -2000},
}


def options(mask: str, queries: int, batch: int) -> dict[str, Any]:
    chosen = dict(MASKS[mask])
    if chosen.pop("starts", None):
        chosen["starts_BS"] = documents(queries, batch)
    return chosen


def check(case: Attention, bound: float = FP32_BOUND, **how: Any) -> None:
    assert max(case.forward_errors(**how)) < bound
    assert max(case.backward_errors(**how)) < bound


@pytest.mark.parametrize("mask", MASKS)
def test_masks(mask: str, target: str) -> None:
    check(Attention(200, 200, 2, 1, **options(mask, 200, 1)), target=target)


def test_each_batch_row_has_its_documents() -> None:
    check(Attention(130, 130, batch=3, starts_BS=documents(130, 3)))


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
def test_query_heads_share_keys(ratio: int, target: str) -> None:
    kv_heads = 2 if ratio <= 2 else 1
    check(Attention(130, 130, kv_heads * ratio, kv_heads), target=target)


@pytest.mark.parametrize("dim", [32, 64, 96, 128])
def test_head_dims(dim: int, target: str) -> None:
    check(Attention(129, 129, dim=dim), target=target)


@pytest.mark.parametrize(
    ("queries", "keys"),
    [(1, 1), (127, 127), (128, 129), (129, 128), (511, 513), (513, 511), (100, 1025), (1, 1024)],
)
def test_tile_edges(queries: int, keys: int) -> None:
    check(Attention(queries, keys, offset=max(0, keys - queries)), target="trn2")


@pytest.mark.slow
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("length", [127, 128, 129, 511, 512, 513, 1023, 1024, 1025])
def test_every_edge(mask: str, length: int, target: str) -> None:
    dim = 64 if length % 2 else 128
    check(Attention(length, length, 4, 2, dim, **options(mask, length, 1)), target=target)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_problems(seed: int, target: str) -> None:
    random = np.random.default_rng(seed)
    queries, keys = (int(n) for n in random.integers(1, 700, 2))
    batch, kv_heads, group = (int(n) for n in random.integers(1, 4, 3))
    chosen: dict[str, Any] = {"offset": int(random.integers(-300, 900))}
    if seed % 2:
        chosen["window"] = int(random.integers(1, 400))
    if seed % 3 == 0:
        chosen["starts_BS"] = documents(queries, batch, seed)
    dim = int(random.choice([32, 64, 96, 128]))
    case = Attention(queries, keys, kv_heads * group, kv_heads, dim, batch, **chosen)
    check(case, target=target, cores=2 if target == "trn2" and seed % 4 < 2 else None)


@pytest.mark.parametrize("window", [0, 400])
def test_keys_beyond_one_section(window: int) -> None:
    """Two sections of 4096 keys (fp32), the second short; the window begins in the first."""
    case = Attention(120, 4096 + 300, offset=4096 + 180, window=window)
    assert max(case.forward_errors()) < FP32_BOUND


@pytest.mark.parametrize("cores", [None, 2])
def test_queries_beyond_one_section(cores: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """dK and dV of three sections of queries meet in HBM, and those of two cores there, too."""
    chosen = kernel("attention_backward")
    monkeypatch.setitem(chosen.function.__globals__, "QUERY_BYTES", 1)  # one row tile of each head
    case = Attention(300, 700, 2, 1, offset=330, window=350)
    assert max(case.backward_errors(chosen, cores=cores)) < FP32_BOUND


def test_two_cores_give_the_bits_of_one() -> None:
    case = Attention(129, 129, 2, 2, dtype=BF16)
    for one, two in zip(case.forward(), case.forward(cores=2), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(case.backward(), case.backward(cores=2), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 1), (6, 3), (1, 1), (3, 3)])
def test_two_cores_share_an_odd_group(heads: int, kv_heads: int) -> None:
    """By its query heads: the backward adds the two parts of dK and dV. One head is not shared."""
    check(Attention(140, 600, heads, kv_heads, offset=300), cores=2)


@pytest.mark.parametrize("name", ["attention_forward", "attention_backward"])
def test_neither_core_waits_for_a_single_group(name: str) -> None:
    case = Attention(256, 256, 4, 1)
    arguments: tuple[np.ndarray, ...] = (case.q, case.k, case.v)
    if name == "attention_backward":
        lse = case.lse.astype(np.float32)
        arguments = (case.dout, *arguments, case.out.astype(np.float32), lse)
    result = run(name, *arguments, cores=2, **case.options)
    first, second = (len(stream.instructions) for stream in result.streams)
    assert first == pytest.approx(second, rel=0.1)


def test_starts_may_be_float() -> None:
    starts = documents(100, 1)
    ints, floats = (Attention(100, 100, starts_BS=s) for s in (starts, starts.astype(np.float32)))
    np.testing.assert_array_equal(ints.forward()[0], floats.forward()[0])


def test_context_parallel_parts_merge_to_the_whole() -> None:
    """Two calls, each with half of the keys: the forward merges by log-sum-exp, as README says;
    the backward takes the merged result, adds dQ and keeps each half of dK and dV."""
    whole = Attention(200, 200)
    halves = [(first, (whole.k[first : first + 100], whole.v[first : first + 100]))
              for first in (0, 100)]  # fmt: skip
    parts = [
        wide(*run("attention_forward", whole.q, *kv, offset=-first, **whole.options).outputs)
        for first, kv in halves
    ]
    (out_a, lse_a), (out_b, lse_b) = parts
    lse = np.logaddexp(lse_a, lse_b)
    weights = (np.exp(part - lse).transpose(2, 0, 1)[..., None] for part in (lse_a, lse_b))
    out = sum(weight * part for weight, part in zip(weights, (out_a, out_b), strict=True))
    assert max(relative_errors((out, lse), (whole.out, whole.lse))) < FP32_BOUND
    merged = (np.float32(out), np.float32(lse))
    gradients = [
        wide(
            *run(
                "attention_backward", whole.dout, whole.q, *kv, *merged, offset=-first,
                **whole.options,
            ).outputs
        )
        for first, kv in halves
    ]  # fmt: skip
    (dq_a, dk_a, dv_a), (dq_b, dk_b, dv_b) = gradients
    joined = (dq_a + dq_b, np.concatenate((dk_a, dk_b)), np.concatenate((dv_a, dv_b)))
    assert max(relative_errors(joined, whole.gradients())) < FP32_BOUND


def test_a_tile_that_the_mask_empties_costs_nothing() -> None:
    """Causal: 10 of the 16 tiles of 4 x 4; a window of 128: 7."""

    def matmuls(**chosen: Any) -> int:
        case = Attention(512, 512, dtype=BF16, **chosen)
        result = run("attention_forward", case.q, case.k, case.v, **case.options)
        scores = [i for i in result.stream.instructions if i.opcode == "nc_matmul"]
        return sum(1 for i in scores if i.line[0].endswith("online_softmax.py")) - 4

    # Four score matmuls (one a row tile) and one product with V for each visible tile.
    assert matmuls() == 10
    assert matmuls(window=128) == 7


def stream_only(what: str, queries: int, keys: int, heads: int, target: str) -> nkisim.Run:
    """The instructions of the last `queries` rows of a causal sequence; nothing is computed."""
    q = np.zeros((queries, 1, heads, 128), BF16)
    k = np.zeros((keys, 1, 1, 128), BF16)
    arguments: tuple[np.ndarray, ...] = (q, k, k)
    if what == "attention_backward":
        arguments = (q, q, k, k, q, np.zeros((1, heads, queries), np.float32))
    settings = nkisim.Options(arithmetic=False)
    chosen = {"scale": 0.1, "offset": keys - queries}
    return run(what, *arguments, target=target, options=settings, **chosen)


@pytest.mark.parametrize("what", ["attention_forward", "attention_backward"])
def test_sbuf_does_not_bound_the_keys(what: str) -> None:
    """As much SBUF for 50000 keys as for 16384: they come in sections."""
    few, many = (stream_only(what, 1, keys, 1, "trn1") for keys in (16384, 50000))
    assert many.occupancy("sbuf").peak == few.occupancy("sbuf").peak


@pytest.mark.slow
@pytest.mark.parametrize("what", ["attention_forward", "attention_backward"])
@pytest.mark.parametrize("heads", [1, 8])
def test_a_sequence_of_32k_fits(what: str, heads: int) -> None:
    """All of the capacity that 32768 tokens, or a full group of heads, ask of the smaller SBUF."""
    stream_only(what, 32768 if heads == 1 else 4096, 32768, heads, "trn1")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["attention_forward", "attention_backward"])
def test_the_most_keys_fit(what: str, target: str) -> None:
    stream_only(what, 128, 2**17 - 1, 1, target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (128, 1, 3, 64)}, "cannot share"),
        ({"q": (128, 1, 2, 48), "k": (128, 1, 2, 48), "v": (128, 1, 2, 48)}, "head dim"),
        ({"v": (127, 1, 2, 64)}, "v must be"),
        ({"k": (128, 2, 2, 64), "v": (128, 2, 2, 64)}, "batch"),
        ({"q": (128, 2, 64)}, r"\[S, B, N, D\]"),
        ({"window": -1}, "window"),
        ({"scale": 0.0}, "scale"),
        ({"starts_BS": np.zeros((2, 128), np.int32)}, "starts"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    shapes = {"q": (128, 1, 2, 64), "k": (128, 1, 2, 64), "v": (128, 1, 2, 64)}
    chosen = {key: value for key, value in change.items() if key not in shapes}
    arrays = [np.zeros(change.get(name, shape), BF16) for name, shape in shapes.items()]
    with pytest.raises(AssertionError, match=message):
        run("attention_forward", *arrays, **{"scale": 0.1, **chosen})


def test_dtypes_must_agree() -> None:
    q, k = np.zeros((128, 1, 1, 64), BF16), np.zeros((128, 1, 1, 64), np.float32)
    with pytest.raises(AssertionError, match="k is float32, but q is bfloat16"):
        run("attention_forward", q, k, k, scale=1.0)
    with pytest.raises(AssertionError, match="lse must be"):
        run("attention_backward", q, q, q, q, q, np.zeros((1, 1, 127), np.float32))


def test_masks_are_those_of_the_reference() -> None:
    """Every (offset, window) of small problems: exact in which keys are seen."""
    forward = reference("attention_forward")
    v = np.eye(128, dtype=np.float32)[:, None, None, :]
    q = np.zeros((128, 1, 1, 128), np.float32)
    for offset, window in itertools.product((-5, 0, 1, 127), (0, 1, 2, 127, 128)):
        chosen: dict[str, Any] = {"scale": 1.0, "offset": offset, "window": window}
        out, _ = run("attention_forward", q, q, v, **chosen).outputs
        np.testing.assert_allclose(out, forward(q, q, v, **chosen)[0], rtol=1e-5)

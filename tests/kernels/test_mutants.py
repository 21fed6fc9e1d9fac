"""Faults planted in the kernels: the simulator refuses each, or the result differs.

Each row is one edit of one file. A mutant that neither fails nor differs means that a test of the
kernels, or a check of the simulator, is missing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from ndtrain.kernels.examples import make_calls, wanted_results

from ndtrain import nkisim
from ndtrain.nkisim.errors import CapacityError, HardwareLimit, NkiSimError, RaceError
from tests.kernels.kernel_cases import BF16, Attention, mutant, normal, relative_errors

DIFFERENT = 1e-3
FORWARD, BACKWARD = "attention_forward", "attention_backward"
STEP, GRADIENTS = "online_softmax", "attention_gradients"


class Edit(NamedTuple):
    kernel: str
    file: str
    old: str
    new: str


def rescale(operand: str, factor: str) -> str:
    return f"operand0={factor},\n            op1=nl.add,\n            operand1={operand}"


WRONG = {
    "the key mask at the diagonal is dropped": Edit(
        FORWARD, "attention_masks", "if num_keys - 1 > delta:", "if False:"
    ),
    "the window is one key too wide": Edit(
        FORWARD, "attention_masks", "hide_above else nl.less,", "hide_above else nl.less_equal,"
    ),
    "old results are not rescaled": Edit(
        FORWARD, STEP, rescale("out_psum", "alpha"), rescale("out_psum", "1.0")
    ),
    "the old total is not rescaled": Edit(
        FORWARD, STEP, rescale("total", "alpha"), rescale("total", "1.0")
    ),
    "the product with V overwrites instead of accumulating": Edit(
        FORWARD,
        STEP,
        "moving=section.values_PTD[0:keys, tile - section.first, :]",
        "moving=section.values_PTD[0:keys, tile - section.first, :], accumulate=False",
    ),
    "the mask overwrites the scores": Edit(
        FORWARD,
        "attention_masks",
        "moving=mask[0:num_queries, 0:num_keys]",
        "moving=mask[0:num_queries, 0:num_keys], accumulate=False",
    ),
    "P^T meets the V of another tile": Edit(
        FORWARD,
        STEP,
        "section.values_PTD[0:keys, tile - section.first, :]",
        "section.values_PTD[0:keys, begin - section.first, :]",
    ),
    "dV and dK take each other's operand": Edit(
        BACKWARD, GRADIENTS, "stationary=probabilities[:, left", "stationary=dscores[:, left"
    ),
    "dQ of all blocks of keys but the last is lost": Edit(
        BACKWARD, GRADIENTS, "if queries.started[number]:\n        nisa.tensor_tensor(",
        "if False:\n        nisa.tensor_tensor(",
    ),
    "dK starts again at each row tile": Edit(
        BACKWARD,
        GRADIENTS,
        "moving=queries.q_PTD[0:rows, number, :]",
        "moving=queries.q_PTD[0:rows, number, :], accumulate=False",
    ),
    "delta is added": Edit(
        BACKWARD,
        GRADIENTS,
        "op0=nl.subtract,\n        operand0=queries.delta_PT",
        "op0=nl.add,\n        operand0=queries.delta_PT",
    ),
    "the log-sum-exp is not negated": Edit(
        BACKWARD, BACKWARD, "nl.multiply, operand0=-1.0", "nl.multiply, operand0=1.0"
    ),
    "dO and q are swapped": Edit(
        BACKWARD, GRADIENTS, "stationary=dout_DS, moving", "stationary=q_DS, moving"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_the_result_differs(fault: str) -> None:
    """Two groups of keys and two blocks, the last short, cut by both edges."""
    edit = WRONG[fault]
    run = mutant(*edit)
    if edit.kernel == FORWARD:
        worst = max(Attention(140, 1300, offset=1170, window=1200).forward_errors(run))
    else:
        worst = max(Attention(140, 700, offset=560, window=600).backward_errors(run))
    assert not worst < DIFFERENT, f"the mutant is right (error {worst:.1e})"


ELEMENTWISE = {
    "eps is forgotten": Edit("rmsnorm_forward", "rmsnorm", "value=eps", "value=1.0"),
    "the mean is a sum": Edit(
        "rmsnorm_forward", "rmsnorm", "bias=eps_P1[0:rows, :], scale=1.0 / hidden",
        "bias=eps_P1[0:rows, :], scale=1.0",
    ),
    "dweight starts again at each row tile": Edit(
        "rmsnorm_backward", "rmsnorm", "                moving=r,\n",
        "                moving=r,\n                accumulate=False,\n",
    ),
    "the mean term of dx is added": Edit(
        "rmsnorm_backward", "rmsnorm", "reverse1=True,", "reverse1=False,"
    ),
    "the rotation turns the other way": Edit(
        "qk_norm_rope_forward", "rope_tiles", "parts, nl.subtract, nl.add)",
        "parts, nl.add, nl.subtract)",
    ),
    "the halves take each other's weight": Edit(
        "qk_norm_rope_forward", "rope_tiles", "(second, sin), (second, cos)",
        "(first, sin), (first, cos)",
    ),
    "the gradient is rotated forward": Edit(
        "qk_norm_rope_backward", "rope_tiles", "parts, nl.add, nl.subtract)",
        "parts, nl.subtract, nl.add)",
    ),
    "dweight keeps its last head": Edit(
        "qk_norm_rope_backward", "qk_norm_rope", "moving=ones[0:rows, :]",
        "moving=ones[0:rows, :], accumulate=False",
    ),
    "gate and up are swapped": Edit(
        "swiglu_backward", "swiglu", "differentiate(dgate, dup, dy_tile, gate, up)",
        "differentiate(dup, dgate, dy_tile, gate, up)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", ELEMENTWISE)
def test_the_result_of_a_smaller_kernel_differs(fault: str) -> None:
    edit = ELEMENTWISE[fault]
    calls = make_calls(edit.kernel, {"rows": 130, "hidden": 128, "tokens": 130, "features": 8})
    (result,) = nkisim.run_ranks(mutant(*edit), calls, target="trn2")
    outputs = result.outputs if isinstance(result.outputs, tuple) else (result.outputs,)
    worst = max(relative_errors(outputs, wanted_results(edit.kernel, calls)[0]))
    assert not worst < DIFFERENT, f"the mutant is right (error {worst:.1e})"


def test_document_bound_off_by_one() -> None:
    run = mutant(FORWARD, "attention_masks", "first_key + 0.5", "first_key - 0.5")
    starts = np.minimum(np.arange(130), 40)[None].astype(np.int32)
    assert max(Attention(130, 130, starts_BS=starts).forward_errors(run)) > DIFFERENT


def test_no_guard_for_rows_that_see_nothing() -> None:
    run = mutant(FORWARD, STEP, "operand1=-NO_KEY_LSE", "operand1=1e38")
    assert not max(Attention(130, 130, offset=-20).forward_errors(run)) < DIFFERENT


class Refusal(NamedTuple):
    error: type[Exception]
    edit: Edit
    keys: int = 600
    target: str = "trn2"


REFUSED = {
    "a row tile of 129 partitions": Refusal(
        HardwareLimit, Edit(FORWARD, "row_tiles", "\nTILE = 128\n", "\nTILE = 129\n")
    ),
    "640 columns in one matmul": Refusal(
        HardwareLimit, Edit(FORWARD, "attention_masks", "BANK_TILES = 4\n", "BANK_TILES = 5\n")
    ),
    "nine banks of scores at once": Refusal(
        CapacityError, Edit(FORWARD, STEP, "GROUP_TILES = 8\n", "GROUP_TILES = 36\n"), keys=4700
    ),
    "a section that exceeds SBUF": Refusal(
        CapacityError, Edit(FORWARD, FORWARD, "return 64 if", "return 1024 if"), keys=100000
    ),
    "a copy that the ScalarE of gen2 does not have": Refusal(
        HardwareLimit,
        Edit(
            FORWARD,
            "row_tiles",
            "nisa.activation(dst=dst, op=nl.copy, data=src)",
            "nisa.tensor_copy(dst=dst, src=src, engine=nisa.engine.scalar)",
        ),
        target="trn1",
    ),
    "accumulation where no matmul wrote": Refusal(
        NkiSimError,
        Edit(
            FORWARD,
            STEP,
            "moving=section.keys_DS[:, begin:end]",
            "moving=section.keys_DS[:, begin:end], accumulate=True",
        ),
    ),
    "transposes that land in SBUF": Refusal(
        HardwareLimit,
        Edit(
            FORWARD,
            "row_tiles",
            "(TILE, TRANSPOSE_TILES, TILE), dtype=tile.dtype, buffer=nl.psum",
            "(TILE, TRANSPOSE_TILES, TILE), dtype=tile.dtype, buffer=nl.sbuf",
        ),
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused(fault: str) -> None:
    refusal = REFUSED[fault]
    run = mutant(*refusal.edit)
    q, k = np.zeros((130, 1, 1, 128), BF16), np.zeros((refusal.keys, 1, 1, 128), BF16)
    settings = nkisim.Options(arithmetic=refusal.keys == 600)
    with pytest.raises(refusal.error):
        nkisim.run(run, q, k, k, offset=refusal.keys, target=refusal.target, options=settings)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (FORWARD, "nisa.memset(dst=out, value=0.0)", "pass"),
        ("row_tiles", "range(0, whole, LOAD_TILES)", "range(1, whole, LOAD_TILES)"),
    ],
    ids=["rows that see nothing are not cleared", "whole tiles are not loaded"],
)
def test_memory_that_nothing_wrote(file: str, old: str, new: str) -> None:
    with pytest.raises(NkiSimError, match="nothing wrote"):
        Attention(140, 140, offset=-129).forward(mutant(FORWARD, file, old, new))


def test_a_dropped_core_barrier_is_a_race() -> None:
    run = mutant(
        "rmsnorm_backward", "rmsnorm", "nisa.core_barrier(data=partial, cores=(0, 1))", "pass"
    )
    x, r = normal(0, (256, 256)), np.ones((256, 1), np.float32)
    with pytest.raises(RaceError):
        nkisim.run(run, x, x, normal(1, (256,)), r, cores=2, target="trn2")
    barrier = "nisa.core_barrier(data=store.sums, cores=(0, 1))"
    run = mutant(BACKWARD, "attention_store", barrier, "pass")
    with pytest.raises(RaceError):
        Attention(64, 200, 2, 1, offset=136).backward(run, cores=2)

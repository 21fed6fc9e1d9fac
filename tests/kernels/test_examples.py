"""The registry, and the example calls that `ndtrain kernels test` runs."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from ndtrain.kernels import KERNELS
from ndtrain.kernels.examples import OUTPUTS, SIZES, make_calls, reference, wanted_results

from ndtrain import nkisim
from tests.kernels.kernel_cases import kernel, relative_errors

SMALL = {
    "queries": 40, "keys": 40, "rows": 8, "hidden": 128, "tokens": 8, "features": 24, "dim": 32,
    "ranks": 2, "heads": 2,
}  # fmt: skip


def small(name: str) -> dict[str, int]:
    return {key: SMALL[key] for key in SIZES[name] if key in SMALL}


@pytest.mark.parametrize("name", KERNELS)
def test_each_kernel_meets_its_reference(name: str) -> None:
    for target in KERNELS[name].targets:
        calls = make_calls(name, small(name))
        runs = nkisim.run_ranks(kernel(name, target), calls, target=target)
        for run, wanted in zip(runs, wanted_results(name, calls), strict=True):
            ours = run.outputs if isinstance(run.outputs, tuple) else (run.outputs,)
            assert len(ours) == len(OUTPUTS[name])
            assert max(relative_errors(ours, wanted)) < 1e-5


@pytest.mark.parametrize("name", KERNELS)
def test_reference_has_the_signature_of_the_kernel(name: str) -> None:
    if name == "allgather_matmul":  # takes all ranks' arrays: one rank does not see the others
        return
    ours = inspect.signature(nkisim.frontend.function_of(kernel(name))).parameters
    theirs = inspect.signature(reference(name)).parameters
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]


def test_without_values_only_shapes_are_made() -> None:
    ((arguments, options),) = make_calls("attention_backward", {"documents": 7}, values=False)
    assert not any(np.any(array) for array in arguments)
    assert options["starts_BS"].shape == (1, 256)

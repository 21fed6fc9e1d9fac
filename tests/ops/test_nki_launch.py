"""A launch on the NeuronCore, up to the last inch: the device's own launcher is a stand-in.

The stand-in gives the kernel to the simulator, so what arrives and what comes back are real.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ndtrain.ops.nki_attention import SIMULATED, NkiAttention
from ndtrain.ops.nki_launch import Kernel, NeuronCore, Simulator

pytest.importorskip("ml_dtypes", reason="the simulator needs the extra nkisim")
SCALE = 32**-0.5


class Launcher:
    """What calls a kernel on a device: by itself, or with a grid."""

    grids: list[int | None]

    def __init__(self, kernel: Kernel, grids: list[int | None], grid: int | None = None) -> None:
        self.kernel, self.grids, self.grid = kernel, grids, grid

    def __getitem__(self, grid: int) -> "Launcher":
        return Launcher(self.kernel, self.grids, grid)

    def __call__(self, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        self.grids.append(self.grid)
        assert all(x.is_contiguous() for x in arguments if isinstance(x, Tensor))
        return Simulator("trn2")(self.kernel, *arguments, cores=self.grid, **options)


class SimulatedCore(NeuronCore):
    """Loads a kernel with the simulator as its nki; everything else is the real class."""

    def load(self, package: str, module: str, function: str) -> Kernel:
        return Simulator("trn2").load(package, module, function)


class PlainCore(SimulatedCore):
    """torch-xla's form of a kernel: it is called as it is."""

    def __init__(self, grids: list[int | None]) -> None:
        self.grids = grids

    def load(self, package: str, module: str, function: str) -> Kernel:
        return Launcher(super().load(package, module, function), self.grids)


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(40, 1, 12, 32, generator=generator).bfloat16()
    return list(fused.split([4, 2, 2, 4], dim=2))  # views, as of a fused projection


def all_results(attention: NkiAttention) -> list[Tensor]:
    q, k, v, dout = inputs()
    starts = torch.zeros(1, 40, dtype=torch.int64)
    starts[0, 17:] = 17
    out, lse = attention.forward(q, k, v, starts, SCALE)
    return [out, lse, *attention.backward(dout, q, k, v, out, lse, starts, SCALE)]


def native_stack(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Kernel], Any]) -> None:
    module = types.ModuleType("torch_neuronx")
    module.wrap_nki = wrap  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_neuronx", module)


@pytest.mark.parametrize(("variable", "grid"), [(None, 2), ("2", 2), ("1", None)])
def test_native_pytorch_launches_on_both_cores_of_a_logical_one(
    variable: str | None, grid: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[int | None] = []
    native_stack(monkeypatch, lambda kernel: Launcher(kernel, grids))
    if variable is not None:
        monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", variable)
    got = all_results(NkiAttention(SimulatedCore()))
    for mine, wanted in zip(got, all_results(NkiAttention(Simulator("trn2"))), strict=True):
        assert mine.dtype == wanted.dtype
        assert torch.equal(mine, wanted)
    assert grids == [grid, grid]


def test_torch_xla_calls_the_kernel_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # An XLA build of torch_neuronx has no wrap_nki.
    monkeypatch.setitem(sys.modules, "torch_neuronx", types.ModuleType("torch_neuronx"))
    grids: list[int | None] = []
    got = all_results(NkiAttention(PlainCore(grids)))
    for mine, wanted in zip(got, all_results(NkiAttention(Simulator("trn2"))), strict=True):
        assert torch.equal(mine, wanted)
    assert grids == [None, None]


def test_a_kernel_is_loaded_with_the_nki_that_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ndtrain import nkisim

    with nkisim.as_nki(fresh="ndtrain.kernels") as nki:
        nki.came_from_here = True  # type: ignore[attr-defined]
        NeuronCore().load("ndtrain.kernels", "attention_forward", "attention_forward")
        assert sys.modules["ndtrain.kernels.attention_forward"].nki is nki


def test_both_targets_give_the_same_attention() -> None:
    """bf16 inputs, fp32 statistics: results round to bf16 once, so they differ by one unit."""
    for mine, wanted in zip(
        all_results(SIMULATED), all_results(NkiAttention(Simulator("trn2"))), strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=2**-7, atol=2**-8)

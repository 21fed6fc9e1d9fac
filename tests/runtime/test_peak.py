"""The measured peak on a machine whose speed is known because it is made up."""

import pytest
import torch

from ndtrain.runtime import peak


def test_the_best_matmul_counts_and_the_size_grows_until_it_is_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def machine_of_a_teraflop(size: int, dtype: torch.dtype) -> float:
        sizes.append(size)
        disturbed = 2.0 if len(sizes) % 2 else 1.0
        return disturbed * 2 * size**3 / 1e12

    monkeypatch.setattr(peak, "_matmul_seconds", machine_of_a_teraflop)
    assert peak.measure_matmul_peak("fp32", seconds=0.01) == pytest.approx(1e12)
    # 2 x 2048^3 FLOP take 17 ms there, or twice that when disturbed.
    assert sizes[0] == 256
    assert sizes[-1] in (2048, 4096)


def test_a_slow_machine_gets_a_small_matmul(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def machine_of_a_gigaflop(size: int, dtype: torch.dtype) -> float:
        sizes.append(size)
        return 2 * size**3 / 1e9

    monkeypatch.setattr(peak, "_matmul_seconds", machine_of_a_gigaflop)
    assert peak.measure_matmul_peak("bf16", seconds=0.01) == pytest.approx(1e9)
    assert set(sizes) == {256}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_real_measurement_is_between_any_calculator_and_any_cpu(dtype: str) -> None:
    assert 1e7 < peak.measure_matmul_peak(dtype, seconds=0.05) < 1e14

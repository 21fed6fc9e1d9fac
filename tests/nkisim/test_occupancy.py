"""Bytes of live tensors over the instructions of a kernel."""

from typing import Any

from .kernels import nisa, psum, run, sbuf


def test_overlapping_addresses_count_once() -> None:
    def kernel() -> None:
        a, b = sbuf((128, 64), address=(0, 0)), sbuf((128, 64), address=(0, 128))
        nisa.memset(a, 0.0)
        nisa.memset(b, 0.0)
        nisa.memset(a, 0.0)

    assert run(kernel).occupancy().steps == ((0, 256), (1, 384), (2, 256), (3, 0))


def test_few_partitions_take_a_share() -> None:
    assert run(lambda: nisa.memset(sbuf((32, 64)), 0.0)).occupancy().peak == 64


def test_what_is_live_at_an_instruction() -> None:
    def kernel() -> None:
        small, large = sbuf((128, 4), name="small"), sbuf((128, 8), name="large")
        nisa.memset(small, 0.0)
        nisa.memset(large, 0.0)
        nisa.tensor_copy(large[:, 0:4], small)
        nisa.memset(psum((128, 4)), 0.0)

    found = run(kernel).occupancy()
    assert found.peak_at == 1
    assert [t.name for t in found.live_at(1)] == ["large", "small"]
    assert [t.name for t in found.live_at(0)] == ["small"]
    assert found.live_at(3) == []


def test_an_unused_tensor_takes_nothing() -> None:
    def kernel() -> None:
        kept: list[Any] = [sbuf((128, 4)) for _ in range(3)]
        nisa.memset(kept[0], 0.0)

    assert run(kernel).occupancy().peak == 16

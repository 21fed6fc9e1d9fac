"""Runs: undefined outputs, capacity, explicit addresses, two cores, races, deadlock."""

from typing import Any

import numpy as np
import pytest

from ndtrain import nkisim
from ndtrain.nkisim.errors import (
    AliasError,
    CapacityError,
    DeadlockError,
    HardwareLimit,
    LanguageError,
    RaceError,
    UninitializedError,
)

from .kernels import hbm, load, nisa, nl, normal, psum, run, sbuf, store

X = normal(64, 32)


def test_undefined_data_is_reported_when_it_reaches_an_output() -> None:
    def kernel(x: Any) -> Any:
        tile = sbuf((64, 32))
        nisa.dma_copy(tile[:, 0:31], x[:, 0:31])
        return store(tile)

    with pytest.raises(UninitializedError, match=r"64 of 2048 .* the first is at \(0, 31\)"):
        run(kernel, X)


def test_undefined_data_that_nobody_consumes_is_no_error() -> None:
    """nki-library's attention backward copies such a tile and uses only its defined part."""

    def kernel(x: Any) -> Any:
        bank, tile = psum((64, 64)), sbuf((64, 64))
        nisa.tensor_copy(bank[:, 0:32], load(x))
        nisa.tensor_copy(tile, bank)
        return store(tile[:, 0:32])

    np.testing.assert_array_equal(run(kernel, X).outputs, X)


def test_an_input_is_updated_in_place() -> None:
    def kernel(x: Any) -> Any:
        tile = load(x)
        nisa.tensor_scalar(tile, tile, nl.add, 1.0)
        nisa.dma_copy(x, tile)
        return x

    x = X.copy()
    np.testing.assert_array_equal(run(kernel, x).outputs, X + 1)
    np.testing.assert_array_equal(x, X + 1)


def test_torch_goes_in_and_comes_out() -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(64, dtype=torch.float32).reshape(32, 2).to(torch.bfloat16)
    got = run(lambda a: store(load(a)), x).outputs
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, x)


@pytest.mark.parametrize(("space", "limit"), [("sbuf", 224 * 1024), ("psum", 16 * 1024)])
def test_live_tensors_must_fit(space: str, limit: int) -> None:
    def kernel(count: int) -> Any:
        make = sbuf if space == "sbuf" else psum
        tiles = []
        for _ in range(count):
            tile = make((128, 512))
            nisa.memset(tile, 1.0)
            tiles.append(tile)
        for tile in tiles:
            nisa.tensor_scalar(tile, tile, nl.add, 1.0)

    assert run(kernel, limit // 2048).occupancy(space).peak == limit
    with pytest.raises(CapacityError, match=f"live tensors need {limit + 2048} bytes"):
        run(kernel, limit // 2048 + 1)


def test_a_tensor_is_live_only_between_its_first_and_last_use() -> None:
    def kernel() -> None:
        for _ in range(300):
            nisa.memset(sbuf((128, 512)), 0.0)

    assert run(kernel).occupancy().peak == 2048


def test_bank_granular_occupancy() -> None:
    def kernel() -> None:
        a, b = psum((128, 4)), psum((128, 4))
        nisa.memset(a, 0.0)
        nisa.memset(b, 0.0)
        nisa.tensor_copy(sbuf((128, 4)), a)
        nisa.tensor_copy(sbuf((128, 4)), b)

    result = run(kernel)
    assert result.occupancy("psum").peak == 32
    assert result.occupancy("psum", granule=2048).peak == 4096


def test_explicit_addresses_alias() -> None:
    def kernel(x: Any) -> Any:
        tile = sbuf((64, 32), address=(0, 1024))
        nisa.dma_copy(tile, x)
        return store(sbuf((64, 64), nl.uint16, address=(0, 1024)))

    np.testing.assert_array_equal(run(kernel, X).outputs, X.view(np.uint16))


def test_reading_a_tensor_that_another_one_overwrote() -> None:
    def kernel(x: Any) -> Any:
        old = sbuf((64, 32), address=(0, 0), name="old")
        new = sbuf((64, 32), address=(0, 64), name="new")
        nisa.dma_copy(old, x)
        nisa.memset(new, 0.0)
        return store(old)

    with pytest.raises(AliasError, match="`old`") as caught:
        run(kernel, X)
    assert "`new`" in caught.value.help


def test_addresses_may_be_used_again_when_the_first_tensor_is_done() -> None:
    def kernel(x: Any) -> Any:
        first, second = sbuf((64, 32), address=(0, 0)), sbuf((64, 32), address=(0, 64))
        nisa.dma_copy(first, x)
        done = store(first)
        nisa.memset(second, 0.0)
        return done, store(second)

    np.testing.assert_array_equal(run(kernel, X).outputs[0], X)


def halves(x: Any, wrong: str = "") -> Any:
    """Each core writes half of a shared tensor, then copies the other half out."""
    core = nl.program_id(0)
    shared, out, other = hbm((64, 32), name="shared"), hbm((64, 32)), hbm((64, 32))
    mine, theirs = slice(core * 32, core * 32 + 32), slice(32 - core * 32, 64 - core * 32)
    nisa.dma_copy(shared[mine], x[mine])
    if wrong == "one core only" and core == 0:
        pass
    elif wrong == "other tensor":
        nisa.core_barrier(other, (0, 1))
    elif wrong != "no barrier":
        nisa.core_barrier(shared, (0, 1))
    tile = sbuf((32, 32))
    nisa.dma_copy(tile, shared[theirs])
    nisa.dma_copy(out[theirs], tile)
    return out


def test_two_cores_share_hbm_across_a_barrier() -> None:
    np.testing.assert_array_equal(run(halves, X, cores=2).outputs, X)


@pytest.mark.parametrize("wrong", ["no barrier", "other tensor"])
def test_a_missing_barrier_is_a_race(wrong: str) -> None:
    with pytest.raises(RaceError, match="`shared`") as caught:
        run(halves, X, wrong, cores=2)
    assert "core_barrier" in caught.value.help


def test_a_barrier_that_one_core_skips_is_a_deadlock() -> None:
    def kernel() -> None:
        shared = hbm((4, 4))
        if nl.program_id(0) == 0:
            nisa.core_barrier(shared, (0, 1))

    with pytest.raises(DeadlockError, match="core 0 at core_barrier"):
        run(kernel, cores=2)


def test_both_cores_writing_the_same_bytes_is_a_race() -> None:
    def kernel() -> None:
        shared, tile = hbm((32, 4)), sbuf((32, 4))
        nisa.memset(tile, 0.0)
        nisa.dma_copy(shared, tile)

    with pytest.raises(RaceError, match="writes `dst`"):
        run(kernel, cores=2)


def test_interleaved_columns_are_no_race() -> None:
    def kernel(x: Any) -> Any:
        core, out = nl.program_id(0), hbm((64, 32))
        nisa.dma_copy(out[:, core:32:2], x[:, core:32:2])
        return out

    np.testing.assert_array_equal(run(kernel, X, cores=2).outputs, X)


def scatter(rows: Any) -> Any:
    """Each core scatters two rows to where its indices say."""
    core, out = nl.program_id(0), hbm((4, 8))
    index, tile = load(rows[core]), sbuf((2, 8))
    nisa.memset(tile, float(core))
    nisa.dma_copy(out.ap([[8, 2], [1, 8]], vector_offset=index, indirect_dim=0), tile)
    return out


def test_a_scatter_races_by_the_rows_that_it_writes() -> None:
    apart = np.array([[[3], [0]], [[1], [2]]], np.uint32)
    np.testing.assert_array_equal(run(scatter, apart, cores=2).outputs[:, 0], [0, 1, 1, 0])
    with pytest.raises(RaceError):
        run(scatter, np.array([[[3], [0]], [[1], [3]]], np.uint32), cores=2)


def test_two_cores_still_meet_without_arithmetic() -> None:
    quiet = nkisim.Options(arithmetic=False, check_python=False)
    run(halves, X, cores=2, options=quiet)
    with pytest.raises(RaceError):
        run(halves, X, "no barrier", cores=2, options=quiet)


def test_sendrecv_swaps_tiles() -> None:
    def kernel(x: Any) -> Any:
        core, out = nl.program_id(0), hbm((2, 32, 32))
        tile, other = load(x[core * 32 : core * 32 + 32]), sbuf((32, 32))
        nisa.sendrecv(tile, other, 1 - core, 1 - core, 0)
        nisa.dma_copy(out[core], other)
        return out

    got = run(kernel, X, cores=2).outputs
    np.testing.assert_array_equal(got, np.stack((X[32:], X[:32])))


def test_sendrecv_on_different_pipes_is_a_deadlock() -> None:
    def kernel() -> None:
        tile, other = sbuf((32, 4)), sbuf((32, 4))
        nisa.memset(tile, 0.0)
        core = nl.program_id(0)
        nisa.sendrecv(tile, other, 1 - core, 1 - core, core)

    with pytest.raises(DeadlockError, match=r"pipe 0.*pipe 1"):
        run(kernel, cores=2)


def test_control_flow_has_to_agree() -> None:
    def kernel() -> None:
        hbm((4, 4 + nl.program_id(0)))

    with pytest.raises(LanguageError, match="same on both cores"):
        run(kernel, cores=2)


def test_a_failure_on_one_core_is_the_one_that_is_reported() -> None:
    def kernel() -> None:
        shared = hbm((4, 4))
        if nl.program_id(0) == 1:
            sbuf((256, 4))
        nisa.core_barrier(shared, (0, 1))

    with pytest.raises(HardwareLimit, match="256"):
        run(kernel, cores=2)


def test_identity_of_a_program() -> None:
    seen = []

    def kernel() -> None:
        seen.append((nl.program_ndim(), nl.num_programs(0), nl.program_id(0)))

    run(kernel)
    run(kernel, cores=2)
    assert seen == [(0, 1, 0), (1, 2, 0), (1, 2, 1)]


def test_without_arithmetic_the_stream_and_the_checks_stay() -> None:
    quiet = nkisim.Options(arithmetic=False, check_python=False)

    def kernel(x: Any, rows: int) -> Any:
        tile = load(x)
        nisa.tensor_reduce(sbuf((64, rows)), nl.add, tile, 1)
        return store(tile)

    kept = run(kernel, X, 1, options=quiet).stream
    assert [str(i) for i in kept] == [str(i) for i in run(kernel, X, 1).stream]
    with pytest.raises(HardwareLimit, match="2 elements"):
        run(kernel, X, 2, options=quiet)


def test_the_stream_names_operands_and_lines() -> None:
    stream = run(lambda x: store(load(x)), X).stream
    copy = stream[0]
    assert (copy.opcode, copy.engine) == ("dma_copy", "dma")
    assert copy.writes[0].role == "dst"
    assert copy.writes[0].shape == (64, 32)
    assert copy.where.split("/")[-1].startswith("kernels.py:")
    assert stream.counts() == {"dma_copy": 2}
    assert stream.engines() == {"dma": 2}


def test_an_instruction_outside_a_kernel_is_refused() -> None:
    with pytest.raises(nkisim.NkiSimError, match="outside a kernel"):
        nl.ndarray((1, 1), nl.float32)


def test_three_cores_do_not_exist() -> None:
    with pytest.raises(HardwareLimit, match="1 or 2"):
        run(lambda: None, cores=3)

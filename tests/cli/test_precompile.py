"""`ndtrain precompile` refuses what it cannot do; what it does: tests/xla, tests/train."""

import pytest

from ndtrain.config.load import load
from ndtrain.train.precompile import run_rank
from tests.cli.conftest import Run


def test_where_nothing_is_compiled_it_says_so(run: Run) -> None:
    result = run("precompile", "tiny")
    assert result.code == 2
    assert "runtime.device=cpu has no compile cache to fill" in result.err
    assert "at runtime.device from " in result.err
    assert "help: set runtime.device=xla" in result.err


def test_a_rank_of_a_cluster_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_rank(load("tiny", [])) == 2
    assert "has no compile cache to fill" in capsys.readouterr().err


def test_without_a_cache_there_is_nothing_to_fill(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XLA_PERSISTENT_CACHE_PATH", raising=False)
    result = run("precompile", "tiny", "runtime.device=xla")
    assert result.code == 2
    assert "there is no compile cache to fill" in result.err
    assert "set XLA_PERSISTENT_CACHE_PATH to a folder" in result.err


def test_nor_where_native_pytorch_s_is_turned_off(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_NEURONX_NEFF_DISABLE_CACHE", "1")
    result = run("precompile", "tiny", "runtime.device=neuron")
    assert result.code == 2
    assert "there is no compile cache to fill" in result.err
    assert "help: unset TORCH_NEURONX_NEFF_DISABLE_CACHE" in result.err


def test_the_configuration_is_checked_before_any_rank_starts(run: Run) -> None:
    result = run("precompile", "tiny", "runtime.device=xla", "parallel.tp=3", "overlap.mode=ring")
    assert result.code == 2
    assert "parallel.tp=3 does not divide" in result.err
    grid = run("precompile", "tiny", "runtime.device=xla", "parallel.dp=2", "--nproc-per-node", "3")
    assert "is not the world size 3" in grid.err


def test_under_torchrun_it_starts_no_ranks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = run("precompile", "tiny", "runtime.device=xla", "--nproc-per-node", "2")
    assert result.code == 2
    assert "--nproc-per-node, but torchrun has started the ranks" in result.err

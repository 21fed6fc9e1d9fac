"""What is counted of native PyTorch's cache, and what a folder alone tells."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ndtrain.runtime.graph_counts import Counts
from ndtrain.runtime.native_cache import NativeCache, find_metrics
from tests.runtime.stand_in_cache import METRICS, StandInCompiler


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInCompiler:
    monkeypatch.setitem(sys.modules, METRICS, ModuleType(METRICS))  # gone again behind the test
    stand_in = StandInCompiler(tmp_path)
    stand_in.install()
    return stand_in


def test_counts_are_those_of_the_time_in_which_they_were_wanted(
    compiler: StandInCompiler, tmp_path: Path
) -> None:
    cache = NativeCache(tmp_path, find_metrics())
    with cache.counting():
        compiler.call("a")
        compiler.synchronize()
        first = cache.counts()
    assert first == Counts(compiled=1, found=0, missed=1)
    assert not sys.modules[METRICS].is_enabled()
    compiler.call("b")
    compiler.synchronize()
    assert cache.counts() == first
    again = StandInCompiler(tmp_path)
    again.install()
    cache = NativeCache(tmp_path, find_metrics())
    with cache.counting():
        again.call("a")
        again.synchronize()
        assert cache.counts() == Counts(compiled=0, found=1, missed=0)


def test_counting_that_a_person_asked_for_goes_on(
    compiler: StandInCompiler, tmp_path: Path
) -> None:
    sys.modules[METRICS].set_enabled(True)
    with NativeCache(tmp_path, find_metrics()).counting():
        pass
    assert sys.modules[METRICS].is_enabled()


def test_where_nobody_counts_new_files_do(tmp_path: Path) -> None:
    cache = NativeCache(tmp_path, None)
    compiler = StandInCompiler(tmp_path)
    with cache.counting():
        before = cache.counts()
        compiler.call("a")
        compiler.synchronize()
        counts = cache.counts().since(before)
    assert counts == Counts(compiled=1, found=None, missed=1)
    assert str(counts) == "1 new entries"


def test_half_written_files_and_records_are_no_entries(tmp_path: Path) -> None:
    folder = tmp_path / "ab" / "cd"
    folder.mkdir(parents=True)
    for name in ("abcd.neff", ".tmp.17.neff", "abcd.lock"):
        (folder / name).write_text("x")
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "the_training_step-1.json").write_text("{}")
    assert NativeCache(tmp_path, None).entries() == {"ab/cd/abcd.neff"}
    assert NativeCache(tmp_path / "absent", None).entries() == frozenset()
    assert NativeCache(None, None).entries() == frozenset()


def test_another_form_of_the_counters_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, METRICS, None)
    assert find_metrics() is None
    monkeypatch.setitem(sys.modules, METRICS, ModuleType(METRICS))
    assert find_metrics() is None

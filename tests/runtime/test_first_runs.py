"""What a person is told while the operations of a part of a run are compiled."""

import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from ndtrain.runtime.compilation import SETTLED
from ndtrain.runtime.first_runs import FirstRuns
from ndtrain.runtime.graph_records import GraphRecords
from ndtrain.runtime.native_cache import NativeCache, find_metrics
from tests.runtime.stand_in_cache import METRICS, StandInCompiler

STEP = "the training step"
HIT = "the training step: hit in the compile cache, 2 graphs ready in 0.0 s"


class Process:
    """A rank's: what it was told is in `notes`."""

    def __init__(
        self,
        folder: Path,
        *,
        counts: bool = True,
        seconds: float = 0.0,
        heartbeat_s: float = 60.0,
        is_first: bool = True,
        **key: str,
    ) -> None:
        self.notes: list[str] = []
        self.num_synchronized = 0
        self.compiler = StandInCompiler(folder, seconds)
        self.compiler.install()
        records = GraphRecords(folder, {"flags": "-O1", **key}) if is_first else None
        cache = NativeCache(folder, find_metrics() if counts else None)
        self.first_runs = FirstRuns(cache, records, self._synchronize, heartbeat_s)

    def _synchronize(self) -> None:
        self.num_synchronized += 1
        self.compiler.synchronize()

    def run(self, *graphs: str, part: str = STEP, seconds: float = 0.0) -> list[str]:
        """What this run was told."""
        before = len(self.notes)
        with self.first_runs.part(part, self.notes.append):
            for graph in graphs:
                self.compiler.call(graph)
            time.sleep(seconds)
        self.compiler.synchronize()  # a later step ends as well
        return self.notes[before:]


@pytest.fixture(autouse=True)
def _metrics_of_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, METRICS, ModuleType(METRICS))


def test_the_first_process_misses_and_the_next_one_hits(tmp_path: Path) -> None:
    (first,) = Process(tmp_path).run("a", "b")
    assert first.startswith("compiled the training step in 0.0 s (miss: nothing cached; 2 graphs")
    assert first.endswith("2 graphs compiled here, 0 found)")
    process = Process(tmp_path)
    assert process.run("a", "b") == [HIT]
    assert process.run("a", "b") == []
    assert [one.verdict for one in process.first_runs.compiled] == ["hit; 2 graphs"]


def test_a_part_of_what_it_asks_for_may_be_there(tmp_path: Path) -> None:
    Process(tmp_path).run("a")
    (note,) = Process(tmp_path, **{"model.num_layers": "4"}).run("a", "b")
    assert note.endswith(
        "(miss: the graph itself changed (config differs: model.num_layers unset -> 4);"
        " 1 graphs compiled here, 1 found)"
    )


def test_parts_share_what_they_compile(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.run("a")
    assert process.run("a", part="the evaluation") == []
    assert [one.verdict for one in process.first_runs.compiled][1:] == ["nothing was compiled"]


def test_a_long_compilation_says_which_part_how_long_and_why(tmp_path: Path) -> None:
    Process(tmp_path).run("a")
    slow = Process(tmp_path, flags="-O2", seconds=0.3, heartbeat_s=0.05)
    notes = slow.run("a", "b")
    assert notes[0].startswith("compiling the training step: 0 s so far (miss: flags differ: -O1")
    assert "; 0 graphs compiled here, 1 found)" in notes[0]
    quiet = Process(tmp_path, heartbeat_s=0.05).run("a", seconds=0.3)
    assert quiet[0].startswith("the training step, run 1: 0 s so far, 0 graphs compiled here")


def test_a_settled_part_costs_no_look_at_the_device_or_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(tmp_path)
    for _ in range(1 + SETTLED):
        process.run("a")
    assert process.num_synchronized == 1 + SETTLED
    monkeypatch.setattr(NativeCache, "entries", lambda self: pytest.fail("it looked"))
    monkeypatch.setattr(NativeCache, "counts", lambda self: pytest.fail("it looked"))
    process.run("a")
    assert process.num_synchronized == 1 + SETTLED
    assert not sys.modules[METRICS].is_enabled()


def test_quiet_runs_count_in_a_row(tmp_path: Path) -> None:
    process = Process(tmp_path)
    for graph in ("a", "a", "b", "b", "c"):
        process.run(graph)
    assert process.num_synchronized == 5


def test_compiling_late_is_a_warning(tmp_path: Path) -> None:
    process = Process(tmp_path)
    for graph in ("a", "b"):
        process.run(graph)
    third = process.run("c")
    assert "run 3 has graphs that the runs before had not" in third[0]
    assert third[1].startswith("warning: the training step was compiled again in its 3. run")


def test_a_slow_run_of_a_settled_part_has_the_cache_looked_at(tmp_path: Path) -> None:
    process = Process(tmp_path, heartbeat_s=0.1)
    for _ in range(1 + SETTLED):
        process.run("a")
    StandInCompiler(tmp_path).call("nobody asks")
    assert process.run("a", seconds=0.2) == []  # slow alone is not this one's business
    process.compiler.call("late")
    process.compiler.synchronize()
    (warning,) = process.run("a", seconds=0.2)
    assert "and the compile cache has 1 new entries" in warning
    assert process.run("a", seconds=0.2) == []


def test_what_another_compiler_made_is_found_with_a_warning_until_it_is_gone(
    tmp_path: Path,
) -> None:
    Process(tmp_path).run("a", "b")
    for _ in range(2):
        (note,) = Process(tmp_path, flags="-O2").run("a", "b")
        assert note == f"{HIT}; warning: found what others compiled (flags differ: -O1 -> -O2)"
    assert Process(tmp_path, ndtrain="2").run("a", "b") == [HIT]


def test_without_counters_the_folder_says_what_it_can(tmp_path: Path) -> None:
    (first,) = Process(tmp_path, counts=False).run("a", "b")
    assert first.endswith("(miss: nothing cached; 2 new entries)")
    assert Process(tmp_path, counts=False).run("a", "b") == [
        "the training step: ready in 0.0 s, nothing was added to the compile cache"
    ]


def test_other_ranks_of_a_node_keep_no_records(tmp_path: Path) -> None:
    (note,) = Process(tmp_path, is_first=False).run("a")
    assert "(miss: it was not there; 1 graphs" in note
    assert not (tmp_path / "graphs").exists()
    assert Process(tmp_path, is_first=False).run("a")[0].startswith(f"{STEP}: hit")


def test_an_entry_that_another_rank_adds_late_is_recorded(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.run("a")
    other = StandInCompiler(tmp_path)
    other.call("of another rank")
    other.synchronize()
    assert process.run("a") == []
    (record,) = (tmp_path / "graphs").iterdir()
    assert record.read_text().count(".neff") == 2


def test_a_folder_that_takes_no_records_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "graphs").write_text("not a folder")
    process = Process(tmp_path)
    warning, compiled = process.run("a")
    assert warning.startswith("warning: a later miss will not say why: ")
    assert compiled.startswith("compiled the training step in ")
    assert len(process.run("b")) == 1


def test_an_error_in_a_run_is_the_run_s(tmp_path: Path) -> None:
    process = Process(tmp_path)
    part = process.first_runs.part(STEP, process.notes.append)
    with pytest.raises(ValueError, match="of the step"), part:
        raise ValueError("of the step")
    assert process.notes == []
    assert not sys.modules[METRICS].is_enabled()

"""What a person is told while a graph compiles, and when it does so again."""

import time
from pathlib import Path

from ndtrain.runtime.compilation import SETTLED, CompilationWatch, Lookup
from ndtrain.runtime.graph_records import GraphRecords


class Compiler:
    """Compiles in the runs that it is told to."""

    def __init__(self, compiles_in: set[int], seconds: float = 0.0) -> None:
        self.compiles_in, self.seconds = compiles_in, seconds
        self.num_runs = self.num_compilations = 0

    def run(self) -> None:
        self.num_runs += 1
        self.num_compilations += self.num_runs in self.compiles_in
        time.sleep(self.seconds)


def told(compiler: Compiler, num_runs: int, heartbeat_s: float = 60.0) -> list[list[str]]:
    """The notes of each run."""
    watch = CompilationWatch(compiler.run, lambda: compiler.num_compilations, None, heartbeat_s)
    notes: list[list[str]] = []
    for _ in range(num_runs):
        notes.append([])
        watch.run("the step", notes[-1].append)
    assert compiler.num_runs == num_runs
    return notes


def test_compiling_is_reported_and_running_is_not() -> None:
    first, second, third = told(Compiler({1, SETTLED}), 3)
    assert first[0].startswith("compiled the step in ")
    assert len(first) == len(second) == 1
    assert third == []


def test_compiling_late_is_a_warning() -> None:
    late = told(Compiler({1, SETTLED + 1}), SETTLED + 1)[-1]
    assert late[1].startswith(f"warning: the step was compiled again in its {SETTLED + 1}. run")


def test_a_long_compilation_is_not_silent() -> None:
    (notes,) = told(Compiler({1}, seconds=0.5), 1, heartbeat_s=0.05)
    assert notes[0].startswith("compiling the step: ")
    assert notes[-1].startswith("compiled the step in ")


class Cache:
    """Has what was put into it; a compiler adds what was missed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits = self.misses = self.unloadable = 0

    def entries(self) -> frozenset[str]:
        return frozenset(path.name for path in self.folder.iterdir() if path.is_file())

    def num_hits(self) -> int:
        return self.hits

    def num_unloadable(self) -> int:
        return self.unloadable

    def num_misses(self) -> int:
        return self.misses


class Device:
    """Runs a graph by its name: loads it, or compiles it. Counts as torch-xla does: no loads."""

    def __init__(self, cache: Cache, seconds: float = 0.0, can_load: bool = True) -> None:
        self.cache, self.seconds, self.can_load = cache, seconds, can_load
        self.num_compilations = 0
        self.loaded: set[str] = set()
        self.graph = ""

    def run(self) -> None:
        if self.graph in self.loaded:
            return
        self.loaded.add(self.graph)
        if self.graph in self.cache.entries():
            self.cache.hits += 1
            if self.can_load:
                return
            self.cache.unloadable += 1
        else:
            self.cache.misses += 1
        time.sleep(self.seconds)
        self.num_compilations += 1
        (self.cache.folder / self.graph).touch()


def said_with_cache(
    folder: Path,
    graphs: list[str],
    flags: str = "-O1",
    seconds: float = 0.0,
    can_load: bool = True,
) -> list[str]:
    """Notes of a new process that runs the step, once as each of the graphs."""
    cache = Cache(folder)
    device = Device(cache, seconds, can_load)
    lookup = Lookup(cache, GraphRecords(folder, {"flags": flags}))
    watch = CompilationWatch(device.run, lambda: device.num_compilations, lookup, heartbeat_s=0.05)
    notes: list[str] = []
    for graph in graphs:
        device.graph = graph
        watch.run("the step", notes.append)
    assert [str(one) for one in watch.compiled] == [
        note for note in notes if "so far" not in note and "warning" not in note
    ]
    return notes


def test_the_first_process_misses_and_the_next_one_hits(tmp_path: Path) -> None:
    (first,) = said_with_cache(tmp_path, ["a", "a"])
    assert first.startswith("compiled the step in 0.0 s")
    assert first.endswith("(miss: nothing cached)")
    (second,) = said_with_cache(tmp_path, ["a", "a"])
    assert second.startswith("the step: hit in the compile cache, ready in ")


def test_what_is_found_and_cannot_be_loaded_is_no_miss(tmp_path: Path) -> None:
    said_with_cache(tmp_path, ["a"])
    (note,) = said_with_cache(tmp_path, ["a"], can_load=False)
    assert note.startswith("compiled the step in ")
    assert note.endswith("(hit, but it could not be loaded)")


def test_a_miss_says_why_and_says_so_while_it_compiles(tmp_path: Path) -> None:
    said_with_cache(tmp_path, ["a"])
    notes = said_with_cache(tmp_path, ["b"], flags="-O2", seconds=0.5)
    assert notes[0].startswith("compiling the step: 0 s so far (miss: flags differ: -O1 -> -O2)")
    assert notes[-1].endswith("(miss: flags differ: -O1 -> -O2)")


def test_the_second_form_of_a_graph_is_no_change_of_the_configuration(tmp_path: Path) -> None:
    notes = said_with_cache(tmp_path, ["a", "b", "b"])
    assert notes[1].endswith("(miss: run 2 is another graph than the runs before)")
    assert len(said_with_cache(tmp_path, ["a", "b", "b"])) == 2  # both hit
    (tmp_path / "b").unlink()
    assert said_with_cache(tmp_path, ["a"])[0].startswith("the step: hit")
    (tmp_path / "a").unlink()
    assert said_with_cache(tmp_path, ["a"])[0].endswith(
        "(miss: what was compiled is no longer in the cache)"
    )

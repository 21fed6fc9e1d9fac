"""What a person is told while a graph compiles, and when it does so again."""

import time

from ndtrain.runtime.compilation import SETTLED, CompilationWatch


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
    watch = CompilationWatch(compiler.run, lambda: compiler.num_compilations, heartbeat_s)
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

"""A shared folder fills a node's cache and takes from it; processes compile on real disks.

Entries have the form of AWS's documentation; torch-xla's real ones: tests/xla/test_precompile.py.
"""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from ndtrain.cluster import compile_cache
from ndtrain.cluster.compile_cache import copy_finished, shared_cache
from ndtrain.config.load import load
from ndtrain.runtime import native_cache
from ndtrain.runtime.graph_records import GraphRecords

ENTRY = "neuronxcc-2.23/MODULE_{}+f"


def compiled(folder: Path, number: int, contents: str = "graph", *, done: bool = True) -> None:
    path = folder / ENTRY.format(number)
    path.mkdir(parents=True)
    for name in ("model.neff", "compile_flags.json", "model.hlo_module.pb.lock"):
        (path / name).write_text(contents)
    if done:
        (path / "model.done").touch()


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.glob("*/*"))


def test_whole_entries_go_over_and_what_is_begun_stays(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    compiled(own, 1)
    compiled(own, 2, done=False)
    GraphRecords(own, {"flags": "-O1"}).write("the training step", [ENTRY.format(1)], 2.0)
    assert copy_finished(own, shared) == 1
    (record,) = (own / "graphs").iterdir()
    assert names(shared) == [f"graphs/{record.name}", ENTRY.format(1)]
    copied = {path.name for path in (shared / ENTRY.format(1)).iterdir()}
    assert copied == {"model.neff", "model.done", "compile_flags.json"}  # a lock is its node's
    assert GraphRecords(shared, {"flags": "-O2"}).why_missed("the training step") == (
        "flags differ: -O1 -> -O2"
    )
    assert copy_finished(own, shared) == 0


def test_a_name_that_is_taken_keeps_what_it_has(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    compiled(own, 1, "mine")
    compiled(shared, 1, "first")
    assert copy_finished(own, shared) == 0
    assert (shared / ENTRY.format(1) / "model.neff").read_text() == "first"


def test_an_empty_or_absent_folder_gives_nothing(tmp_path: Path) -> None:
    assert copy_finished(tmp_path / "absent", tmp_path / "own") == 0
    assert not (tmp_path / "own").exists()


def test_what_a_killed_copy_left_is_ignored_and_removed_when_it_is_old(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    compiled(own, 1)
    for name, age_s in (("old", compile_cache.STALE_AFTER_S + 60), ("new", 0)):
        partial = shared / "neuronxcc-2.23" / f".MODULE_9+f.{name}.tmp"
        partial.mkdir(parents=True)
        for file in ("model.neff", "model.done"):
            (partial / file).write_text("x")
        then = time.time() - age_s
        os.utime(partial, (then, then))
    assert copy_finished(shared, tmp_path / "other") == 0
    assert copy_finished(own, shared) == 1
    left = [name for name in names(shared) if name.endswith(".tmp")]
    assert left == ["neuronxcc-2.23/.MODULE_9+f.new.tmp"]


def publish_all(own: Path, shared: Path, start: Path) -> int:
    """A node's process: waits for the start, so that all run at once."""
    while not start.exists():
        time.sleep(0.001)
    return copy_finished(own, shared)


def test_nodes_that_publish_at_once_leave_one_whole_copy_of_each(tmp_path: Path) -> None:
    """Every entry has many files: a reader that met half of one would count fewer."""
    num_nodes, num_graphs, num_files = 4, 12, 20
    shared = tmp_path / "shared"
    for node in range(num_nodes):
        for number in range(num_graphs):
            compiled(tmp_path / f"node{node}", number, str(node))
            for file in range(num_files):
                path = tmp_path / f"node{node}" / ENTRY.format(number) / f"part{file}"
                path.write_text(str(node))
    context = multiprocessing.get_context("spawn")
    with context.Pool(num_nodes) as pool:
        tasks = [
            pool.apply_async(publish_all, (tmp_path / f"node{node}", shared, tmp_path / "start"))
            for node in range(num_nodes)
        ]
        (tmp_path / "start").touch()
        seen = 0
        while not all(task.ready() for task in tasks):
            for path in shared.glob("neuronxcc-2.23/MODULE_*"):
                contents = {file.read_text() for file in path.glob("part*")}
                assert len(list(path.glob("part*"))) == num_files
                assert len(contents) == 1  # of one node, not mixed
                seen += 1
        copied = [task.get() for task in tasks]
    assert sum(copied) == num_graphs
    assert names(shared) == sorted(ENTRY.format(number) for number in range(num_graphs))


def config(shared: Path | None, device: str = "xla"):  # type: ignore[no-untyped-def]
    where = "null" if shared is None else str(shared)
    return load("tiny", [f"runtime.device={device}", f"cluster.compile_cache={where}"]).config


def as_torch_xla_leaves_it(folder: Path, name: str) -> None:
    (folder / "rank_0").mkdir(parents=True, exist_ok=True)
    (folder / "rank_0" / name).write_text(name)
    GraphRecords(folder, {"flags": name}).write("the training step", [f"rank_0/{name}"], 1.0)


def test_a_node_is_filled_before_its_ranks_and_gives_back_after_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    as_torch_xla_leaves_it(shared, "1")
    with shared_cache(config(shared), 0, {"XLA_PERSISTENT_CACHE_PATH": str(own)}):
        assert (own / "rank_0" / "1").read_text() == "1"
        as_torch_xla_leaves_it(own, "2")
        assert not (shared / "rank_0" / "2").exists()
    assert (shared / "rank_0" / "2").read_text() == "2"
    assert capsys.readouterr().out.splitlines() == [
        f"compile cache: 1 graphs from {shared} to {own}",
        f"compile cache: 1 graphs from {own} to {shared}",
    ]


def test_native_pytorch_s_graphs_go_over_when_a_part_of_the_run_has_ended(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    native = config(shared, "neuron")
    with shared_cache(native, 0, {native_cache.VARIABLE: str(own)}):
        for name in ("abcd", "abce", ".tmp.1"):
            (own / "ab" / "cd").mkdir(parents=True, exist_ok=True)
            (own / "ab" / "cd" / f"{name}.neff").write_text(name)
        GraphRecords(own, {"flags": "-O1"}).write("the training step", ["ab/cd/abcd.neff"], 1.0)
    assert [path.name for path in shared.rglob("*.neff")] == ["abcd.neff"]
    with shared_cache(native, 0, {native_cache.VARIABLE: str(tmp_path / "other")}):
        assert (tmp_path / "other" / "ab" / "cd" / "abcd.neff").read_text() == "abcd"
    off = {native_cache.VARIABLE: str(tmp_path / "off"), native_cache.DISABLING[0]: "1"}
    with shared_cache(native, 0, off):
        assert not (tmp_path / "off").exists()


def test_what_is_compiled_is_published_while_the_ranks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is killed has no end in which to do so."""
    monkeypatch.setattr(compile_cache, "PUBLISH_EVERY_S", 0.01)
    own, shared = tmp_path / "own", tmp_path / "shared"
    with shared_cache(config(shared), 0, {"XLA_PERSISTENT_CACHE_PATH": str(own)}):
        as_torch_xla_leaves_it(own, "1")
        deadline = time.monotonic() + 60
        while not (shared / "rank_0" / "1").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("local_rank", "is_shared", "device", "variables"),
    [
        (1, True, "xla", {}),  # the first rank of the node does it
        (0, False, "xla", {}),
        (0, True, "cpu", {}),
        (0, True, "xla", {"XLA_PERSISTENT_CACHE_PATH": ""}),  # turned off
    ],
)
def test_nothing_is_copied_where_it_is_not_wanted(
    tmp_path: Path, local_rank: int, is_shared: bool, device: str, variables: dict[str, str]
) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    as_torch_xla_leaves_it(shared, "1")
    where = {"XLA_PERSISTENT_CACHE_PATH": str(own)} | variables
    with shared_cache(config(shared if is_shared else None, device), local_rank, where):
        as_torch_xla_leaves_it(own, "2")
    assert not (own / "rank_0" / "1").exists()
    assert not (shared / "rank_0" / "2").exists()


def test_a_folder_that_cannot_be_written_is_warned_of_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    shared.write_text("not a folder")
    with shared_cache(config(shared), 0, {"XLA_PERSISTENT_CACHE_PATH": str(own)}):
        as_torch_xla_leaves_it(own, "1")
    assert capsys.readouterr().err.startswith(f"warning: compile cache: {own} is not copied to")

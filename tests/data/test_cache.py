"""The cache: whole folders or none, damage found, concurrent writers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ndtrain.data import cache


def write(folder: Path) -> dict[str, Any]:
    (folder / "a.bin").write_bytes(b"12345")
    (folder / "b.bin").write_bytes(b"")
    return {"count": 5}


def test_published_folders_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "key"
    assert cache.find(folder) is None
    meta = cache.publish(folder, write)
    assert meta == {"count": 5, "sizes": {"a.bin": 5, "b.bin": 0}}
    assert cache.find(folder) == meta
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a.bin").write_bytes(b"1234"),
        lambda folder: (folder / "a.bin").unlink(),
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "meta.json").write_text('{"count": 5'),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: (folder / "meta.json").write_text('{"sizes": 3}'),
    ],
)
def test_damage_is_found_and_mended(tmp_path: Path, damage: Any) -> None:
    folder = tmp_path / "key"
    meta = cache.publish(folder, write)
    damage(folder)
    assert cache.find(folder) is None
    assert cache.publish(folder, write) == meta
    assert cache.find(folder) == meta
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    folder = tmp_path / "key"

    def write_late(temporary: Path) -> dict[str, Any]:
        cache.publish(folder, write)  # another process, while this one is writing
        (temporary / "c.bin").write_bytes(b"x")
        return {"count": 1}

    assert cache.publish(folder, write_late)["count"] == 5
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin", "b.bin", "meta.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail(temporary: Path) -> dict[str, Any]:
        write(temporary)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        cache.publish(tmp_path / "key", fail)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".key.1.aa.tmp", tmp_path / ".key.2.bb.tmp"
    for path in (old, young):
        path.mkdir()
    os.utime(old, (0, 0))
    cache.publish(tmp_path / "key", write)
    assert not old.exists()
    assert young.exists()


def test_keys_depend_on_every_value() -> None:
    assert cache.key_of({"a": 1, "b": [2]}) == cache.key_of({"b": [2], "a": 1})
    keys = {cache.key_of(value) for value in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": [1]})}
    assert len(keys) == 4


def test_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_root(None) == tmp_path / "ndtrain"
    assert cache.cache_root("/x/y") == Path("/x/y")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache.cache_root(None) == Path("/home/someone/.cache/ndtrain")
    assert cache.cache_root("~/z") == Path("/home/someone/z")


def test_processes_that_publish_at_once_all_end_with_one_whole_folder(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from ndtrain.data import cache
folder, disturb = Path(sys.argv[1]), sys.argv[2] == "0"
def write(temporary):
    for name in "abc":
        (temporary / name).write_text(name * 1000)
    return {}
for number in range(40):
    target = folder / str(number)
    if disturb and number % 2:  # a damaged folder appears in between
        target.mkdir(exist_ok=True)
        (target / "junk").write_text("junk")
    cache.publish(target, write)
    assert cache.find(target) is not None
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(index)]) for index in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert not list(tmp_path.glob(".*"))
    for number in range(40):
        meta = json.loads((tmp_path / str(number) / "meta.json").read_text())
        assert meta["sizes"] == {"a": 1000, "b": 1000, "c": 1000}

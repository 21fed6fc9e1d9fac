"""Atomic files: whole or untouched, at every point where the writer may die."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ndtrain.core import atomic


def test_replaces_the_contents_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    atomic.write_json(path, {"state": "running"})
    atomic.write_json(path, {"state": "finished"})
    assert json.loads(path.read_text()) == {"state": "finished"}
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_keeps_the_old_contents(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    atomic.write_bytes(path, b"old")

    def write_half() -> None:
        with atomic.atomic_file(path) as stream:
            stream.write(b"new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_target_does_not_exist_before_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    with atomic.atomic_file(path) as stream:
        stream.write(b"x" * 100_000)
        assert not path.exists()
    assert path.stat().st_size == 100_000


def test_a_failed_rename_removes_the_temporary_file(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "inside").touch()
    with pytest.raises(OSError, match="taken"):
        atomic.write_bytes(folder, b"data")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_killed_writer_leaves_the_old_contents(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text("old")
    program = (
        "import os, signal, sys, pathlib\n"
        "from ndtrain.core.atomic import atomic_file\n"
        "with atomic_file(pathlib.Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'new'); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_data_and_folder_are_flushed_in_the_order_that_a_power_cut_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("fsync folder" if is_folder else "fsync file")
        real_fsync(descriptor)

    def replace(source: Path, destination: Path) -> None:
        calls.append("rename")
        real_replace(source, destination)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    atomic.write_text(tmp_path / "file", "text")
    assert calls == ["fsync file", "rename", "fsync folder"]


def test_the_file_has_the_permissions_of_an_ordinary_one(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    atomic.write_text(tmp_path / "written", "")
    assert (tmp_path / "written").stat().st_mode == ordinary.stat().st_mode


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        atomic.write_json(tmp_path / "status.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1: the digest of "abc".
    (tmp_path / "abc").write_bytes(b"abc")
    assert atomic.sha256_of_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )

"""The sample of the standard library: which files, and how they are decoded."""

import os
import shutil
from pathlib import Path

import pytest

from ndtrain.core.errors import UserError
from ndtrain.data.stdlib import StdlibSource, decode_source, sample


def texts_of(source: StdlibSource) -> tuple[list[str], list[str]]:
    remarks: list[str] = []
    return [document.text for document in source.documents(remarks)], remarks


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "lib"
    for name in ("a.py", "b/c.py", "b/d.py", "test/e.py", "x/tests/f.py", "site-packages/g.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"name = {name!r}\n")
    (root / "data.txt").write_text("not python")
    return root


def test_takes_python_files_outside_tests_and_packages(tree: Path) -> None:
    texts, remarks = texts_of(StdlibSource(None, tree))
    assert sorted(texts) == ["name = 'a.py'\n", "name = 'b/c.py'\n", "name = 'b/d.py'\n"]
    assert remarks == []


def test_sample_depends_on_names_not_on_the_file_system(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in sorted((path for path in tree.rglob("*.py")), reverse=True):
        target = copy / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        os.utime(target, (0, 0))
    names = [str(file.path.relative_to(tree)) for file in sample(tree, None)]
    assert [str(file.path.relative_to(copy)) for file in sample(copy, None)] == names
    assert names != sorted(names)  # spread over packages, not the alphabet's beginning


def test_sample_stays_within_the_limit(tree: Path) -> None:
    sizes = [file.size for file in sample(tree, None)]
    limit = sizes[0] + sizes[2]
    small = sample(tree, limit)
    assert 0 < sum(file.size for file in small) <= limit
    with pytest.raises(UserError, match="no Python source found"):
        sample(tree, 3)


def test_this_interpreter_has_enough_text() -> None:
    source = StdlibSource(5_000_000)
    assert 4_500_000 < source.num_bytes() <= 5_000_000


def test_encoding_cookie_and_mark_are_obeyed(tree: Path) -> None:
    latin = '# -*- coding: latin-1 -*-\nauthor = "François"\n'
    (tree / "latin.py").write_bytes(latin.encode("latin-1"))
    (tree / "marked.py").write_bytes(b"\xef\xbb\xbfx = 1\n")
    texts, remarks = texts_of(StdlibSource(None, tree))
    assert latin in texts
    assert "x = 1\n" in texts
    assert remarks == []


def test_undecodable_and_empty_files_are_left_out_and_said(tree: Path) -> None:
    (tree / "bad.py").write_bytes(b"x = '\xff'\n")
    (tree / "unknown.py").write_bytes(b"# coding: klingon\n")
    (tree / "empty.py").write_bytes(b"")
    texts, remarks = texts_of(StdlibSource(None, tree))
    assert len(texts) == 3
    assert "1 empty files left out" in remarks
    (undecodable,) = [remark for remark in remarks if "undecodable" in remark]
    assert undecodable.startswith("2 undecodable files left out: ")
    assert {"bad.py", "unknown.py"} == set(undecodable.partition(": ")[2].split(", "))


def test_real_latin_1_module_decodes() -> None:
    import heapq  # its source has a latin-1 cookie and a c with a cedilla

    text = decode_source(Path(heapq.__file__).read_bytes())
    assert "François" in text

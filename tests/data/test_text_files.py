"""Plain files: globs, limits, and what is refused."""

from pathlib import Path

import pytest

from ndtrain.core.errors import UserError, UserErrors
from ndtrain.data.text_files import TextSource, cut_at_line


def read(source: TextSource) -> tuple[list[str], list[str]]:
    remarks: list[str] = []
    return [document.text for document in source.documents(remarks)], remarks


def write(folder: Path, **contents: str | bytes) -> None:
    for name, content in contents.items():
        path = folder / f"{name}.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_one_document_a_file_by_path_without_repetition(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, b="second", a="first\r\n")
    write(tmp_path / "deep", c="third")
    source = TextSource([f"{tmp_path}/**/*.txt", f"{tmp_path}/a.txt"], None)
    assert read(source) == (["first\r\n", "second", "third"], [])


def test_patterns_without_files_are_all_named(tmp_path: Path) -> None:
    write(tmp_path, a="x")
    with pytest.raises(UserErrors) as caught:
        TextSource([f"{tmp_path}/*.txt", f"{tmp_path}/*.md", f"{tmp_path}/none"], None)
    assert "*.md" in str(caught.value)
    assert "none" in str(caught.value)
    with pytest.raises(UserError, match="needs files"):
        TextSource([], None)


def test_other_encodings_are_refused_with_the_place(tmp_path: Path) -> None:
    write(tmp_path, a=b"one\ntwo\n" + b"thr\xe9\n")
    with pytest.raises(UserError, match="byte 0xe9 at offset 11") as caught:
        read(TextSource([f"{tmp_path}/a.txt"], None))
    assert caught.value.where == f"{tmp_path}/a.txt:3"


def test_byte_order_mark_is_dropped_and_empty_files_are_said(tmp_path: Path) -> None:
    write(tmp_path, a=b"\xef\xbb\xbfmarked", b="")
    texts, remarks = read(TextSource([f"{tmp_path}/*.txt"], None))
    assert texts == ["marked"]
    assert remarks == ["1 empty files left out"]


def test_limit_cuts_a_file_and_leaves_the_rest(tmp_path: Path) -> None:
    write(tmp_path, a="aaaa\n", b="bb\nbbbbbb\n", c="c\n")
    texts, remarks = read(TextSource([f"{tmp_path}/*.txt"], 10))
    assert texts == ["aaaa\n", "bb\n"]
    assert len(remarks) == 2
    assert "b.txt cut to 0.0 MB" in remarks[0]
    assert remarks[1] == "1 files not read: data.max_megabytes"
    assert read(TextSource([f"{tmp_path}/*.txt"], 17))[1] == []


@pytest.mark.parametrize(
    ("content", "limit", "expected"),
    [
        ("ab\ncd\nef", 7, "ab\ncd\n"),
        ("ab\ncd", 3, "ab\n"),
        ("abcdef", 4, "abcd"),
        ("aéé", 4, "aé"),
        ("aéé", 3, "aé"),
        ("€", 2, ""),
    ],
)
def test_cut_is_at_a_line_or_a_character(content: str, limit: int, expected: str) -> None:
    assert cut_at_line(content.encode(), limit).decode() == expected

"""Strict YAML: scalars of YAML 1.2, and everything that is refused."""

import math
from pathlib import Path

import pytest

from ndtrain.config.reader import MAX_DEPTH, MAX_FILE_BYTES, plain, read_file, read_value
from ndtrain.core.errors import UserError


def value(text: str) -> object:
    errors: list[UserError] = []
    node = read_value(text, "the command line", errors)
    assert not errors
    return plain(node)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4", 1e-4),
        ("1e+4", 1e4),
        ("5e4", 5e4),
        (".5", 0.5),
        ("-3", -3),
        ("0", 0),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("'true'", "true"),
        ("[1e-4, off, 010]", [1e-4, "off", "010"]),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "text", ["off", "no", "on", "Yes", "010", "12:30", "1_000", "0x10", "2024-01-01", "<<", "="]
)
def test_what_yaml_1_1_would_convert_stays_text(text: str) -> None:
    assert value(text) == text


def test_infinities_are_numbers() -> None:
    assert value(".inf") == math.inf
    assert value("-.Inf") == -math.inf
    assert math.isnan(float(str(value(".nan"))))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("*name", "alias"),
        ("&name 3", "anchor"),
        ("!!python/object:os.system 3", "tag"),
        ("!!int 3", "tag"),
        ("[1, 2", "not valid YAML"),
        ("", "missing"),
        ("# only a comment", "missing"),
        ("\x07", "U+0007"),
        ("[" * (MAX_DEPTH + 1), "nested"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_values_that_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint.replace("+", r"\+")) as caught:
        read_value(text, "the command line", [])
    assert caught.value.where == "the command line"


def file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "complaint", "line"),
    [
        (b"", "empty", ""),
        (b"# nothing\n", "empty", ""),
        (b"- a\n", "a list", ":1"),
        (b"\n\n3\n", "a single value", ":3"),
        ("a: 1".encode("utf-16"), "UTF-16", ""),
        (b"\x7fELF\0\0", "binary", ""),
        (b"a: 1\nb: \xff\n", "not UTF-8", ":2"),
        (b"a: 1\nb: \x07\n", "U\\+0007", ":2"),
        (b"a:\n\tb: 1\n", "not valid YAML", ":2"),
        (b"a: 1\n---\nb: 1\n", "not valid YAML", ":2"),
        (b"a: " + b"x" * MAX_FILE_BYTES, "larger", ""),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes, complaint: str, line: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        read_file(file(tmp_path, content), "a.yaml", [])
    assert caught.value.where == f"a.yaml{line}"


def test_a_folder_a_device_and_an_unreadable_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder"):
        read_file(tmp_path, "folder", [])
    with pytest.raises(UserError, match="not a regular file"):
        read_file(Path("/dev/null"), "/dev/null", [])
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_file(tmp_path / "absent", "absent", [])


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    nodes = read_file(file(tmp_path, b"\xef\xbb\xbfa: 1\n"), "a.yaml", [])
    assert plain(nodes["a"]) == 1


def test_every_node_knows_its_line(tmp_path: Path) -> None:
    nodes = read_file(file(tmp_path, b"a:\n  b: 1\n  c:\n    - 2\n"), "a.yaml", [])
    inner = nodes["a"].value
    assert isinstance(inner, dict)
    assert (nodes["a"].where, inner["b"].where, inner["c"].where) == (
        "a.yaml:1",
        "a.yaml:2",
        "a.yaml:3",
    )


def test_faults_of_keys_are_collected(tmp_path: Path) -> None:
    errors: list[UserError] = []
    content = b"a: 1\na: 2\n? [x]\n: 3\nb: " + b"9" * 5000 + b"\na: 4\n"
    nodes = read_file(file(tmp_path, content), "a.yaml", errors)
    assert plain(nodes["a"]) == 1
    assert [(error.what[:13], error.where, error.help) for error in errors] == [
        ("duplicate key", "a.yaml:2", "first written at a.yaml:1"),
        ("a key must be", "a.yaml:3", ""),
        ("a number of t", "a.yaml:5", ""),
        ("duplicate key", "a.yaml:6", "first written at a.yaml:1"),
    ]

"""JSON lines: format detection, bad records with their places, limits."""

from collections.abc import Callable
from typing import Any

import pytest

from ndtrain.core.errors import UserError, UserErrors
from ndtrain.data.jsonl import JsonlSource
from ndtrain.data.sources import Document

Write = Callable[..., str]
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def read(path: str, **options: Any) -> tuple[list[Document], list[str]]:
    remarks: list[str] = []
    source = JsonlSource([path], options.pop("max_bytes", None), **options)
    return list(source.documents(remarks)), remarks


def test_text_records(write_jsonl: Write) -> None:
    path = write_jsonl({"text": "one", "id": 1}, "", {"text": "two"}, {"text": ""})
    documents, remarks = read(path)
    assert documents == [Document("one"), Document("two")]
    assert remarks == ["1 empty records left out"]


def test_chat_records_are_rendered_with_the_spans_that_count(write_jsonl: Write) -> None:
    (document,), remarks = read(write_jsonl(CHAT))
    assert remarks == []
    assert document.counted is not None
    assert [document.text[begin:end] for begin, end in document.counted] == [
        "<think>\n\n</think>\n\nb<|im_end|>"
    ]
    (document,), _ = read(write_jsonl(CHAT), train_on="all")
    assert document.counted is None


def test_format_is_said_with_the_record_it_came_from(write_jsonl: Write) -> None:
    path = write_jsonl("", "oops", CHAT)
    source = JsonlSource([path], None, max_bad_records=1)
    assert source.format == "chat"
    assert source.describe().endswith(f"`messages` records (as in {path}:3)")


def test_mixed_formats_are_refused_with_both_places(write_jsonl: Write) -> None:
    path = write_jsonl({"text": "x"}, CHAT)
    with pytest.raises(UserError, match="a `messages` record among `text` records") as caught:
        read(path, max_bad_records=100)
    assert caught.value.where == f"{path}:2"
    assert f"{path}:1" in caught.value.help


BAD: list[tuple[Any, str]] = [
    ("{", "not JSON: "),
    ("[1]", "not a JSON object"),
    ('{"text": ' + "1" * 5000 + "}", "not readable as JSON"),
    ("[" * 100_000, "not readable as JSON"),
    ({"body": "x"}, "neither `text` nor `messages`"),
    ({"text": "x", "messages": []}, "both `text` and `messages`"),
    ({"text": 3}, "`text` is not a string"),
    ({"text": None}, "`text` is not a string"),
    ({"text": "\ud800"}, "unpaired surrogate"),
]


@pytest.mark.parametrize(("record", "problem"), BAD)
def test_bad_text_records(write_jsonl: Write, record: Any, problem: str) -> None:
    path = write_jsonl({"text": "good"}, record)
    with pytest.raises(UserErrors) as caught:
        read(path)
    bad, total = caught.value.errors
    assert problem in bad.what
    assert bad.where == f"{path}:2"
    assert total.what == "1 bad records, 0 are tolerated"
    documents, remarks = read(path, max_bad_records=1)
    assert documents == [Document("good")]
    assert len(remarks) == 1
    assert remarks[0].startswith(f"1 bad records left out: {path}:2: bad record: ")


def test_bytes_that_are_not_utf8(write_jsonl: Write) -> None:
    path = write_jsonl({"text": "good"})
    with open(path, "ab") as stream:
        stream.write(b'{"text": "\xff"}\n')
    with pytest.raises(UserErrors, match="not UTF-8 at byte 10"):
        read(path)


def test_all_bad_records_are_listed_up_to_twenty(write_jsonl: Write) -> None:
    path = write_jsonl({"text": "good"}, *["oops"] * 7)
    with pytest.raises(UserErrors) as caught:
        read(path, max_bad_records=6)
    assert [error.where for error in caught.value.errors[:-1]] == [
        f"{path}:{line}" for line in range(2, 9)
    ]
    assert caught.value.errors[-1].what == "7 bad records, 6 are tolerated"

    path = write_jsonl({"text": "good"}, *["oops"] * 50)
    with pytest.raises(UserErrors) as caught:
        read(path, max_bad_records=3)
    assert len(caught.value.errors) == 21
    assert caught.value.errors[-1].what == "at least 20 bad records, 3 are tolerated"

    with pytest.raises(UserErrors) as caught:
        read(path, max_bad_records=30)
    assert len(caught.value.errors) == 21
    assert caught.value.errors[-1].what == "at least 31 bad records, 30 are tolerated"
    assert read(path, max_bad_records=50)[1][0].startswith("50 bad records left out")


def test_without_a_record_it_is_refused(write_jsonl: Write) -> None:
    with pytest.raises(UserError, match="no record found"):
        JsonlSource([write_jsonl("", "  ")], None)
    with pytest.raises(UserErrors, match="not JSON"):
        JsonlSource([write_jsonl("oops")], None)


def test_limit_stops_before_a_record(write_jsonl: Write) -> None:
    path = write_jsonl({"text": "x" * 20}, {"text": "y" * 20}, {"text": "z"})
    documents, remarks = read(path, max_bytes=70)
    assert len(documents) == 2
    assert remarks == [f"stopped before {path}:3: data.max_megabytes"]


def test_tools_are_refused(write_jsonl: Write) -> None:
    with pytest.raises(UserErrors, match="`tools` is not supported"):
        read(write_jsonl(CHAT | {"tools": [{"name": "x"}]}))
    assert read(write_jsonl(CHAT | {"tools": []}))[0]

"""Rows as text: documents and runs of counted tokens, nothing lost."""

from pathlib import Path

import pytest

from ndtrain.data.chat import check_messages, render
from ndtrain.data.dataset import Dataset
from ndtrain.data.encode import encode_documents
from ndtrain.data.loader import Loader
from ndtrain.data.show import Run, printable, shown_documents
from ndtrain.data.sources import Document
from ndtrain.data.tokenizer import Tokenizer


def test_chat_in_runs(tokenizer: Tokenizer, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "fox?"}, {"role": "assistant", "content": "friends"}]
    text, spans = render(check_messages(chat, "assistant"))
    documents = [Document(text, spans)] * 2
    meta = encode_documents(documents, tokenizer, "chat", tmp_path)
    loader = Loader(Dataset(tmp_path, meta, tokenizer, 0.0), 200, 1, 0)
    (row,) = loader.rows(slice(0, 1))
    first, second = shown_documents(row, tokenizer)
    assert first.runs == second.runs
    assert first.runs == [
        Run("<|im_start|>user\nfox?<|im_end|>\n<|im_start|>assistant\n", counted=False),
        Run("<think>\n\n</think>\n\nfriends<|im_end|>", counted=True),
        Run("\n", counted=False),
    ]
    assert (first.begin, second.end) == (0, row.num_filled)
    assert first.end == second.begin


def test_text_rows_show_every_token(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = ["the quick fox", "its friends", "brown"]
    meta = encode_documents([Document(text) for text in texts], tokenizer, "text", tmp_path)
    dataset = Dataset(tmp_path, meta, tokenizer, 0.0)
    (row,) = Loader(dataset, dataset.num_tokens - 1, 1, 0, shuffle=False).rows(slice(0, 1))
    documents = shown_documents(row, tokenizer)
    joined = ["".join(run.text for run in document.runs) for document in documents]
    assert joined == [text + "<|endoftext|>" for text in texts]
    # Under a document mask nothing predicts the first token of a document.
    assert [[run.counted for run in document.runs] for document in documents] == [[False, True]] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\n\ttext é 日本", "plain\n\ttext é 日本"),
        ("\x1b[2J\r\x07", "\\x1b[2J\\r\\x07"),
        ("\u202eright to left", "\\u202eright to left"),
    ],
)
def test_control_characters_do_not_reach_the_terminal(text: str, expected: str) -> None:
    assert printable(text) == expected

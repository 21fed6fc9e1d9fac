"""A small tokenizer with Qwen3's special tokens, trained once for all data tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ndtrain.data.text_files import TextSource
from ndtrain.data.tokenizer import Tokenizer
from ndtrain.data.train_tokenizer import train_tokenizer

# The letters of i * 7919 in base 26 give many words, so that there is enough to merge.
WORDS = ["".join(chr(97 + i * 7919 // 26**k % 26) for k in range(5)) for i in range(99)]
TRAINING_TEXT = "\n".join(f"the quick brown fox, and its {word} friends" for word in WORDS)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text(TRAINING_TEXT)
    train_tokenizer(TextSource([str(folder / "text.txt")], None), 320, folder)
    return Tokenizer.open(folder)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    """write_jsonl(record, record, ...): its path. A str is written as it is."""

    def write(*records: Any, name: str = "records.jsonl") -> str:
        path = tmp_path / name
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(path)

    return write

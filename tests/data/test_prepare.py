"""From configuration to dataset: the cache, its keys, errors, and several processes at once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndtrain.config.schema import Data
from ndtrain.core.errors import UserError
from ndtrain.data import Loader, open_prepared, prepare
from ndtrain.data.tokenizer import Tokenizer

from .conftest import WORDS

CHAT = {
    "messages": [
        {"role": "user", "content": "the fox?"},
        {"role": "assistant", "content": "its friends"},
    ]
}


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Data]:
    """data(...): settings for forty small text files, with the cache beside them."""
    (tmp_path / "corpus").mkdir()
    for i in range(40):
        (tmp_path / "corpus" / f"{i:02}.txt").write_text(f"document {i}\n" + " ".join(WORDS[i:]))

    def make(**options: Any) -> Data:
        defaults: dict[str, Any] = {
            "source": "text",
            "paths": [f"{tmp_path}/corpus/*.txt"],
            "cache_directory": str(tmp_path / "cache"),
            "held_out_fraction": 0.1,
        }
        return Data(**(defaults | options))

    return make


def entries(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("cache/*/*"))


def test_second_opening_reads_the_cache(data: Callable[..., Data], tmp_path: Path) -> None:
    lines: list[str] = []
    first = prepare(data(), 300, lines.append)
    assert len(lines) == 3
    assert lines[0] == "data: text: 40 files, 0.0 MB"
    assert lines[1].startswith("data: byte-level BPE of 300 tokens trained on 0.0 MB in ")
    assert lines[2].startswith(f"data: 40 documents, {first.num_tokens:,} tokens (")
    before = entries(tmp_path)
    lines.clear()
    second = prepare(data(), 300, lines.append)
    opened = open_prepared(data(), 300)
    assert entries(tmp_path) == before
    assert len(lines) == 2
    assert lines[1].endswith(f" from {first.folder}")
    assert first.fingerprint == second.fingerprint == opened.fingerprint
    assert first.held_out.tolist() == opened.held_out.tolist() != []


def test_opening_neither_imports_torch_nor_loads_the_tokenizer(
    data: Callable[..., Data],
) -> None:
    prepare(data(), 300, lambda line: None)
    script = (
        "import sys\n"
        "from ndtrain.config.schema import Data\n"
        "from ndtrain.data import Loader, open_prepared\n"
        f"dataset = open_prepared(Data(**{data().model_dump()!r}), 300)\n"
        "Loader(dataset, 16, 2, 0).batch(slice(0, 2))\n"
        "print([name for name in ('torch', 'tokenizers', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("options", "vocab_size"),
    [({"max_megabytes": 0.001}, 300), ({}, 310), ({"paths": ["corpus/1*.txt"]}, 300)],
)
def test_what_changes_the_tokens_changes_the_entry(
    data: Callable[..., Data],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    vocab_size: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    first = prepare(data(), 300, lambda line: None)
    second = prepare(data(**options), vocab_size, lambda line: None)
    assert first.folder != second.folder


@pytest.mark.parametrize(
    "options",
    [
        {"sequence_length": 8},
        {"document_mask": False},
        {"held_out_fraction": 0.5},
        {"shuffle": False},
    ],
)
def test_what_does_not_change_the_tokens_shares_the_entry(
    data: Callable[..., Data], options: dict[str, Any]
) -> None:
    first = prepare(data(), 300, lambda line: None)
    assert open_prepared(data(**options), 300).folder == first.folder


def test_an_edited_file_is_encoded_again(data: Callable[..., Data], tmp_path: Path) -> None:
    first = prepare(data(), 300, lambda line: None)
    path = tmp_path / "corpus" / "07.txt"
    path.write_text(path.read_text().upper())  # the same size
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="not in the cache"):
        open_prepared(data(), 300)
    assert prepare(data(), 300, lambda line: None).fingerprint != first.fingerprint


@pytest.mark.parametrize("kind", ["tokens", "tokenizers"])
def test_damaged_entries_are_built_again(
    data: Callable[..., Data], tmp_path: Path, kind: str
) -> None:
    first = prepare(data(), 300, lambda line: None)
    (entry,) = (tmp_path / "cache" / kind).iterdir()
    (damaged,) = entry.glob("tokens.bin" if kind == "tokens" else "tokenizer.json")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(UserError, match="not in the cache"):
        open_prepared(data(), 300)
    assert prepare(data(), 300, lambda line: None).fingerprint == first.fingerprint
    assert open_prepared(data(), 300).fingerprint == first.fingerprint


def test_processes_that_prepare_at_once_agree(data: Callable[..., Data], tmp_path: Path) -> None:
    script = (
        "from ndtrain.config.schema import Data\n"
        "from ndtrain.data import prepare\n"
        f"dataset = prepare(Data(**{data().model_dump()!r}), 300, lambda line: None)\n"
        "print(dataset.fingerprint, int(dataset._tokens.sum()))\n"
    )
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    dataset = open_prepared(data(), 300)
    assert answers == {f"{dataset.fingerprint} {int(dataset._tokens.sum())}\n"}
    assert len(entries(tmp_path)) == 2  # and no temporary folder
    assert not list(tmp_path.glob("cache/*/.*"))


def test_chat_from_records_to_targets(
    data: Callable[..., Data], write_jsonl: Callable[..., str], tokenizer: Tokenizer
) -> None:
    path = write_jsonl(CHAT, CHAT | {"id": 2}, "oops")
    settings = data(
        source="jsonl",
        paths=[path],
        tokenizer=str(tokenizer.folder),
        held_out_fraction=0.0,
        max_bad_records=1,
    )
    lines: list[str] = []
    for _ in range(2):  # encoding, and from the cache: what is left out is said both times
        dataset = prepare(settings, 320, lines.append)
        assert lines[-1].startswith(f"data: 1 bad records left out: {path}:3: bad record: not JSON")
    loader = Loader(dataset, 160, 1, 0)
    batch = loader.batch(slice(0, 1))
    counted = batch.targets_BS[batch.targets_BS >= 0]
    assert tokenizer.decode(counted.tolist()) == "<think>\n\n</think>\n\nits friends<|im_end|>" * 2
    assert loader.num_targets() == len(counted)


def test_standard_library_text_end_to_end(tmp_path: Path) -> None:
    settings = Data(max_megabytes=0.1, cache_directory=str(tmp_path))
    dataset = prepare(settings, 512, lambda line: None)
    assert 15_000 < dataset.num_tokens < 100_000
    assert dataset.tokenizer.size == 512
    document = int(dataset.train[0])
    text = dataset.tokenizer.decode(dataset.tokens_of(document, 0, 40).tolist())
    assert "�" not in text[:-1]


def test_tokenizer_larger_than_the_model_is_refused(
    data: Callable[..., Data], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    settings = data(tokenizer=str(tokenizer.folder))
    with pytest.raises(UserError, match=r"has 320 tokens, .* is 319") as caught:
        prepare(settings, 319, lambda line: None)
    assert "at least 320" in caught.value.help
    assert entries(tmp_path) == []  # refused before anything was encoded
    prepare(settings, 320, lambda line: None)
    for opening in (prepare, lambda data, size, log: open_prepared(data, size)):
        with pytest.raises(UserError, match=r"has 320 tokens, .* is 319"):
            opening(settings, 319, lambda line: None)
    with pytest.raises(UserError, match="vocab_size=258 is below 259"):
        prepare(data(), 258, lambda line: None)
    assert prepare(data(), 259, lambda line: None).tokenizer.size == 259


def test_settings_that_contradict_are_refused(data: Callable[..., Data], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"takes no data\.paths"):
        prepare(data(source="stdlib"), 300, print)
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        prepare(data(tokenizer=str(tmp_path)), 300, print)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="no document"):
        prepare(data(paths=[f"{tmp_path}/empty.txt"]), 300, lambda line: None)
    with pytest.raises(UserError, match="one document cannot be split"):
        prepare(data(paths=[f"{tmp_path}/corpus/07.txt"]), 300, lambda line: None)


def test_file_errors_are_user_errors(data: Callable[..., Data], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory"):
        prepare(data(cache_directory=str(tmp_path / "file" / "cache")), 300, lambda line: None)


def test_tokens_survive_a_round_trip(data: Callable[..., Data], tmp_path: Path) -> None:
    dataset = prepare(data(), 300, lambda line: None)
    for document in (0, 17, 39):
        ids = dataset.tokens_of(document, 0, int(dataset.lengths[document]) - 1)
        expected = (tmp_path / "corpus" / f"{document:02}.txt").read_text()
        assert dataset.tokenizer.decode(ids.tolist()) == expected
    assert json.loads((dataset.folder / "meta.json").read_text())["num_documents"] == 40
    assert np.all(dataset.lengths > 0)

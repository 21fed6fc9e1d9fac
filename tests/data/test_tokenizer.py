"""Training, loading and exporting tokenizers, checked against transformers' AutoTokenizer."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ndtrain.core.errors import UserError
from ndtrain.data.chat import check_messages, render
from ndtrain.data.sources import Document, Format
from ndtrain.data.special_tokens import END_OF_TEXT, IM_END, IM_START
from ndtrain.data.text_files import TextSource
from ndtrain.data.tokenizer import Tokenizer
from ndtrain.data.train_tokenizer import _training_texts, train_tokenizer

TEXTS = [
    "the quick brown fox, and its 42 friends\n\n  indented\tline\r\n",
    "unseen: François, 日本語, emoji 🙂, control \x00\x1b",
    f"{IM_START}user\nhello{IM_END}\n{END_OF_TEXT}",
    "It's  they'LL   x\n\n\ny   ",
    "",
]
CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "the fox?"},
    {"role": "assistant", "content": "<think>\nfox\n</think>\n\nits friends"},
]


def auto_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def test_special_tokens_come_first_and_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    assert [tokenizer.core.token_to_id(t) for t in (END_OF_TEXT, IM_START, IM_END)] == [0, 1, 2]
    assert tokenizer.size == 320
    assert tokenizer.end_of_document_id == 0
    assert tokenizer.stop_ids == (0, 2)


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_inverts_encoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_single_and_words_are_not_joined(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("fox 1234")]
    assert pieces[-4:] == ["1", "2", "3", "4"]
    assert not any("x " in piece for piece in pieces)


def test_special_tokens_in_literal_text_are_text(tokenizer: Tokenizer) -> None:
    text = f"a{END_OF_TEXT}b"
    (literal,) = tokenizer.encode_batch([text], literal=True)
    assert 0 not in literal.ids
    assert tokenizer.decode(literal.ids) == text
    (special,) = tokenizer.encode_batch([text], literal=False)
    assert special.ids.count(0) == 1
    assert tokenizer.encode(text).count(0) == 1  # the setting does not stay behind


@pytest.mark.parametrize("model_type", [None, "qwen3", "llama"])
def test_export_loads_in_transformers(
    tokenizer: Tokenizer, tmp_path: Path, model_type: str | None
) -> None:
    if model_type:  # as beside an exported model, which transformers looks at first
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer.export(tmp_path)
    theirs = auto_tokenizer(tmp_path)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs.encode(text) == ids  # nothing is added at the ends
        assert theirs.decode(ids) == text
    assert len(theirs) == tokenizer.size
    assert (theirs.eos_token, theirs.pad_token) == (END_OF_TEXT, END_OF_TEXT)


def test_export_renders_chats_as_we_train_them(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.export(tmp_path)
    theirs = auto_tokenizer(tmp_path)
    text, _ = render(check_messages(CHAT, "assistant"))
    assert theirs.apply_chat_template(CHAT, tokenize=False) == text
    ids = theirs.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert ids == tokenizer.encode(text)
    assert ids.count(tokenizer.core.token_to_id(IM_END)) == 3


def test_export_of_an_export_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.export(tmp_path / "one")
    Tokenizer.open(tmp_path / "one").export(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_a_folder_keeps_its_own_template_and_end_token(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    shutil.copy(tokenizer.folder / "tokenizer.json", folder)
    config = {"eos_token": {"content": IM_END}, "chat_template": "{{ messages }}", "extra": 1}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    opened = Tokenizer.open(folder)
    assert opened.end_of_document_id == 0  # <|endoftext|> goes before eos_token
    opened.export(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written == config | {"tokenizer_class": "PreTrainedTokenizerFast"}

    (folder / "chat_template.jinja").write_text("{{ 'own' }}")
    (folder / "tokenizer_config.json").unlink()
    Tokenizer.open(folder).export(tmp_path / "out2")
    assert (tmp_path / "out2" / "chat_template.jinja").read_text() == "{{ 'own' }}"
    written = json.loads((tmp_path / "out2" / "tokenizer_config.json").read_text())
    assert "chat_template" not in written
    assert written["eos_token"] == END_OF_TEXT


def other_tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """A word-level tokenizer without Qwen3's special tokens, whose largest id leaves a gap."""
    from tokenizers import Tokenizer as Core
    from tokenizers import models

    folder.mkdir(exist_ok=True)
    core = Core(models.WordLevel({"a": 0, "</s>": 7}, unk_token="a"))
    core.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.open(folder)


def test_other_families(tmp_path: Path) -> None:
    other = other_tokenizer(tmp_path, {"eos_token": "</s>"})
    assert other.size == 8
    assert other.end_of_document_id == 7
    assert other.stop_ids == (7,)
    with pytest.raises(UserError, match=r"lacks <\|im_start\|> and <\|im_end\|>"):
        other.require_chat()
    other.export(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert "chat_template" not in written


@pytest.mark.parametrize("config", [{}, {"eos_token": None}, {"eos_token": "<end>"}])
def test_without_an_end_token_it_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="nothing ends a document"):
        _ = other_tokenizer(tmp_path, config).end_of_document_id


def test_folders_that_are_no_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        _ = Tokenizer.open(tmp_path).core
    for text, problem in [("[]", "not a JSON object"), ("{", "not JSON")]:
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(UserError, match=problem):
            Tokenizer.open(tmp_path)


def test_training_is_deterministic_across_processes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = tokenizer.folder / "text.txt"
    script = (
        "from pathlib import Path; from ndtrain.data.text_files import TextSource;"
        "from ndtrain.data.train_tokenizer import train_tokenizer;"
        f"train_tokenizer(TextSource([{str(text)!r}], None), 320, Path({str(tmp_path)!r}))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert Tokenizer.open(tmp_path).sha256 == tokenizer.sha256


def test_training_reads_a_sample_of_large_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(200):
        (tmp_path / f"{i}.txt").write_text(f"{i:03} " + "x" * 96)
    source = TextSource([f"{tmp_path}/*.txt"], None)
    module = "ndtrain.data.train_tokenizer.MAX_TRAINING_BYTES"
    monkeypatch.setattr(module, 5000)
    sample = list(_training_texts(source))
    assert 25 < len(sample) < 80  # 50 expected, standard deviation 6
    assert list(_training_texts(source)) == sample
    monkeypatch.setattr(module, 10)  # none is likely to be drawn: a part of one will do
    assert [len(text) for text in _training_texts(source)] == [10]


def test_training_on_chats_leaves_the_markers_out(tmp_path: Path) -> None:
    class Chats(TextSource):
        def documents(self, remarks: list[str]) -> Iterator[Document]:
            yield Document(render(check_messages(CHAT, "assistant"))[0])

        @property
        def format(self) -> Format:
            return "chat"

    (tmp_path / "a").write_text("x")
    source = Chats([str(tmp_path / "a")], None)
    assert not any(IM_START in text or IM_END in text for text in _training_texts(source))
    train_tokenizer(source, 300, tmp_path)
    assert Tokenizer.open(tmp_path).config["eos_token"] == IM_END

"""Token files: contents, loss masks, pieces that encode as the whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndtrain.core.errors import UserError
from ndtrain.data import encode
from ndtrain.data.chat import check_messages, render
from ndtrain.data.chat_template import QWEN3_TEMPLATE
from ndtrain.data.dataset import Dataset
from ndtrain.data.encode import _pieces, counted_tokens, encode_documents
from ndtrain.data.sources import Document
from ndtrain.data.special_tokens import END_OF_TEXT, IM_END, IM_START
from ndtrain.data.tokenizer import Tokenizer

from .synthetic import properties

CHATS = [
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": f"question {i} " * (i + 1)},
        {"role": "assistant", "content": f"<think>\nhm {i}\n</think>\n\nanswer {i}"},
        {"role": "user", "content": "\n\nand then?\n"},
        {"role": "assistant", "content": "\n\nFrançois 日本 " * i + "."},
    ]
    for i in range(5)
]


def encoded(tokenizer: Tokenizer, documents: list[Document], format: Any, folder: Path) -> Dataset:
    folder.mkdir(exist_ok=True)
    meta = encode_documents(documents, tokenizer, format, folder)
    return Dataset(folder, meta, tokenizer, held_out_fraction=0)


def tokens(dataset: Dataset, document: int) -> list[int]:
    return dataset.tokens_of(document, 0, int(dataset.lengths[document])).tolist()


def test_texts_end_with_the_end_token_and_nothing_else_does(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    texts = ["the fox", f"literal {END_OF_TEXT} inside", "日本"]
    dataset = encoded(tokenizer, [Document(text) for text in texts], "text", tmp_path)
    assert dataset.num_documents == 3
    for document, text in enumerate(texts):
        *body, last = tokens(dataset, document)
        assert last == tokenizer.end_of_document_id
        assert tokenizer.end_of_document_id not in body
        assert tokenizer.decode(body) == text
        assert dataset.counted_of(document, 0, len(body) + 1).all()
    assert dataset.num_tokens == dataset.lengths.sum()
    assert not (tmp_path / "counted.bin").exists()


def test_chats_are_encoded_as_rendered_and_the_mask_is_transformers(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rendered = [render(check_messages(chat, "assistant")) for chat in CHATS]
    documents = [Document(text, spans) for text, spans in rendered]
    dataset = encoded(tokenizer, documents, "chat", tmp_path / "ours")
    theirs = _with_generation_marks(tokenizer, tmp_path / "theirs")
    for document, chat in enumerate(CHATS):
        expected = theirs(chat)
        length = int(dataset.lengths[document])
        assert tokens(dataset, document) == expected["input_ids"]
        mask = dataset.counted_of(document, 0, length)
        assert mask.astype(int).tolist() == expected["assistant_masks"]
        # The mask is read by bits: any window must agree with the whole.
        for begin in range(0, length, 5):
            np.testing.assert_array_equal(
                dataset.counted_of(document, begin, length - 3), mask[begin : length - 3]
            )
        im_end = tokenizer.core.token_to_id(IM_END)
        counted_ids = dataset.tokens_of(document, 0, length)[mask].tolist()
        assert counted_ids.count(im_end) == 2


def _with_generation_marks(tokenizer: Tokenizer, folder: Path) -> Callable[[Any], Any]:
    """transformers' rendering with the assistant's part marked by its own extension."""
    from transformers import AutoTokenizer

    tokenizer.export(folder)
    auto = AutoTokenizer.from_pretrained(str(folder))
    body = "{{- content ~ '<|im_end|>' -}}"
    marked = (
        "{%- if message.role == 'assistant' -%}{%- generation -%}" + body + "{%- endgeneration -%}"
        "{%- else -%}" + body + "{%- endif -%}"
    )
    assert QWEN3_TEMPLATE.count(body) == 1
    template = QWEN3_TEMPLATE.replace(body, marked)
    return lambda chat: auto.apply_chat_template(
        chat, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )


def test_a_token_across_the_header_is_not_counted() -> None:
    # Tokens of characters [0, 3), [3, 6), [6, 6), [6, 9); the spans begin at 4 and at 6.
    offsets = [(0, 3), (3, 6), (6, 6), (6, 9)]
    assert counted_tokens(offsets, [(4, 5), (6, 8)]).tolist() == [False, False, True, True]
    assert counted_tokens(offsets, []).tolist() == [False] * 4
    assert counted_tokens([], [(0, 1)]).tolist() == []


def test_train_on_all_needs_no_mask(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text, _ = render(check_messages(CHATS[0], "all"))
    dataset = encoded(tokenizer, [Document(text)], "chat", tmp_path)
    assert dataset.counted_of(0, 0, int(dataset.lengths[0])).all()
    assert tokens(dataset, 0)[0] == tokenizer.core.token_to_id(IM_START)


def test_many_batches_give_the_same_files(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = [render(check_messages(chat, "assistant")) for chat in CHATS]
    documents = [Document(text, spans) for text, spans in rendered]
    folders = [tmp_path / "one", tmp_path / "many"]
    for folder in folders:
        folder.mkdir()
    encode_documents(documents, tokenizer, "chat", folders[0])
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 1)
    encode_documents(documents, tokenizer, "chat", folders[1])
    names = {path.name for path in folders[0].iterdir()}
    assert names == {"tokens.bin", "offsets.bin", "hashes.bin", "counted.bin"}
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_dtype_follows_the_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    small = encode_documents([Document("x")], tokenizer, "text", tmp_path)
    assert small["dtype"] == "<u2"
    large = Tokenizer.open(tokenizer.folder)
    large.__dict__["size"] = 65537
    assert encode_documents([Document("x")], large, "text", tmp_path)["dtype"] == "<u4"
    assert (tmp_path / "tokens.bin").stat().st_size == 2 * 4


def test_fingerprint_follows_tokens_edges_and_mask(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def fingerprint(*documents: Document, format: Any = "text") -> str:
        return encode_documents(documents, tokenizer, format, tmp_path)["fingerprint"]

    base = fingerprint(Document("ab"), Document("c"))
    assert fingerprint(Document("ab"), Document("c")) == base
    others = [
        fingerprint(Document("c"), Document("ab")),
        fingerprint(Document("abc")),
        fingerprint(Document("ab", ((0, 1),)), Document("c", ((0, 1),)), format="chat"),
        fingerprint(Document("ab", ((1, 2),)), Document("c", ((0, 1),)), format="chat"),
        fingerprint(Document("ab"), Document("c"), format="chat"),
    ]
    assert len({base, *others}) == 6


def test_chat_needs_the_chat_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Core
    from tokenizers import models

    Core(models.WordLevel({END_OF_TEXT: 0}, unk_token=END_OF_TEXT)).save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(UserError, match="which chat records need"):
        encode_documents([], Tokenizer.open(tmp_path), "chat", tmp_path)


texts = st.lists(
    st.sampled_from(["a", "bc ", "\n", "\n\n", "  ", "\r\n", "1", "!", "é", "\u0301", "\t"]),
    max_size=40,
).map("".join)


@properties
@given(texts)
def test_pieces_encode_as_the_whole(tokenizer: Tokenizer, text: str) -> None:
    pieces = _pieces_of(text, 4)
    assert "".join(pieces) == text
    ids = [token for piece in pieces for token in tokenizer.encode(piece)]
    assert ids == tokenizer.encode(text)


def _pieces_of(text: str, size: int) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "PIECE_CHARACTERS", size)
        return _pieces(text)


def test_pieces_are_cut_where_it_is_safe() -> None:
    assert _pieces_of("aaaa\nbbb\n  ccc\nd", 3) == ["aaaa\n", "bbb\n  ccc\n", "d"]
    assert _pieces_of("no line end at all", 3) == ["no line end at all"]
    assert _pieces_of("", 3) == []

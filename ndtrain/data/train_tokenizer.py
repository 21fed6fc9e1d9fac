"""Trains a byte-level BPE in the manner of Qwen3's tokenizer, on the documents of a source.

Same normalisation (NFC), splitting and special tokens as Qwen3, so that the result behaves like it:
digits one by one, no token across a word boundary, every byte sequence encodable. Training is
deterministic for one version of `tokenizers`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ndtrain.core.atomic import write_json
from ndtrain.data.chat_template import QWEN3_TEMPLATE
from ndtrain.data.sources import MEGABYTE, Document, Format, Source, hash_of_text
from ndtrain.data.special_tokens import END_OF_TEXT, IM_END, SPECIAL_TOKENS

RECIPE = 1  # raise it when the same data would give another tokenizer: it is part of the cache key
SMALLEST_SIZE = 256 + len(SPECIAL_TOKENS)
# The merges of a small vocabulary hardly change beyond this; training 5 MB takes about 2 s on two
# cores of a 2020s x86 machine.
MAX_TRAINING_BYTES = 8 * MEGABYTE
# Qwen2's and Qwen3's splitting rule: the `pre_tokenizer` of their tokenizer.json.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(source: Source, vocab_size: int, folder: Path) -> dict[str, Any]:
    """Writes tokenizer.json and tokenizer_config.json; returns what is worth saying about it.

    A little data may give fewer tokens than `vocab_size`. Beyond 8 MB, documents are sampled by
    the hash of their text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_training_texts(source), trainer)
    core.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", tokenizer_config(source.format))
    sampled = min(source.num_bytes(), MAX_TRAINING_BYTES)
    return {"size": core.get_vocab_size(), "sampled_bytes": sampled}


def tokenizer_config(format: Format) -> dict[str, Any]:
    """tokenizer_config.json. As in Qwen3, chat models stop at <|im_end|>, base models do not."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": IM_END if format == "chat" else END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": QWEN3_TEMPLATE,
    }


def _training_texts(source: Source) -> Iterator[str]:
    """Texts without chat markers, at most about MAX_TRAINING_BYTES, and at least one."""
    share = MAX_TRAINING_BYTES / max(source.num_bytes(), 1)
    markers = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
    num_taken = 0
    skipped: Document | None = None
    for document in source.documents([]):
        if share < 1 and hash_of_text(document.text) >= share * 2**64:
            skipped = document
            continue
        num_taken += 1
        yield from markers.split(document.text)
    if not num_taken and skipped is not None:
        # Few and large documents: the hash took none. A part of one is enough.
        yield from markers.split(skipped.text[:MAX_TRAINING_BYTES])

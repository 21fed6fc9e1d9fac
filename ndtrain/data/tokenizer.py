"""A tokenizer: a folder with tokenizer.json, loaded by `tokenizers` when it is first needed.

tokenizer = Tokenizer.open(folder)           # trained by ndtrain, or a Hugging Face folder
ids = tokenizer.encode("hello")              # no token is added at the ends
tokenizer.export(model_folder)               # transformers' AutoTokenizer loads the result
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndtrain.core.atomic import sha256_of_file, write_json
from ndtrain.core.errors import UserError
from ndtrain.data.chat_template import QWEN3_TEMPLATE
from ndtrain.data.special_tokens import END_OF_TEXT, IM_END, IM_START

if TYPE_CHECKING:
    import tokenizers

CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
# Files that belong to a tokenizer folder; all but the first may be absent.
FILES = (
    "tokenizer.json",
    CONFIG_FILE,
    TEMPLATE_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


class Tokenizer:
    """Encodes, decodes and exports. Safe to share between threads that only encode."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config  # tokenizer_config.json, or {}

    @classmethod
    def open(cls, folder: Path) -> "Tokenizer":
        """Raises UserError if the folder has no tokenizer.json or a config that is not JSON."""
        if not (folder / "tokenizer.json").is_file():
            raise UserError(
                f"no tokenizer.json in `{folder}`",
                where="data.tokenizer",
                help="give a folder as Hugging Face writes it, or data.tokenizer=train",
            )
        path = folder / CONFIG_FILE
        config = _read_json(path) if path.is_file() else {}
        return cls(folder, config)

    @cached_property
    def core(self) -> "tokenizers.Tokenizer":
        """The object of the `tokenizers` library. Raises UserError if it cannot read the file."""
        from tokenizers import Tokenizer as Core

        path = self.folder / "tokenizer.json"
        try:
            return Core.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"not a tokenizer: {error}", where=str(path)) from None

    @cached_property
    def sha256(self) -> str:
        """Of tokenizer.json."""
        return sha256_of_file(self.folder / "tokenizer.json")

    @cached_property
    def size(self) -> int:
        """One more than the largest id: the rows that an embedding needs."""
        return max(self.core.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def end_of_document_id(self) -> int:
        """<|endoftext|>, or the config's eos_token where there is none. Raises UserError."""
        for token in (END_OF_TEXT, self._configured_eos()):
            token_id = None if token is None else self.core.token_to_id(token)
            if token_id is not None:
                return token_id
        raise UserError(
            f"the tokenizer has neither {END_OF_TEXT} nor an eos_token: nothing ends a document",
            where=str(self.folder),
            help=f"name its end token as eos_token in {CONFIG_FILE}",
        )

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a generation: the end of a document, and of a chat message if known."""
        im_end = self.core.token_to_id(IM_END)
        return (self.end_of_document_id,) + (() if im_end is None else (im_end,))

    def require_chat(self) -> None:
        """Raises UserError unless the tokenizer has the tokens of Qwen3's chat format."""
        missing = [token for token in (IM_START, IM_END) if self.core.token_to_id(token) is None]
        if missing:
            raise UserError(
                f"the tokenizer lacks {' and '.join(missing)}, which chat records need",
                where=str(self.folder),
                help="use Qwen3's tokenizer or data.tokenizer=train",
            )

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens in it count as such. Nothing is added at the ends."""
        return self.core.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], literal: bool) -> "list[tokenizers.Encoding]":
        """Encodes in parallel threads.

        literal: a special token spelled out in the text is text, not a token; for documents
        from outside, where it must not end a document or forge a chat message.
        """
        self.core.encode_special_tokens = literal
        try:
            return self.core.encode_batch(list(texts), add_special_tokens=False)
        finally:
            self.core.encode_special_tokens = False

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens included."""
        return self.core.decode(list(ids), skip_special_tokens=False)

    def export(self, folder: Path) -> None:
        """Writes the tokenizer's files to `folder`, with a chat template if it can chat.

        A template that the tokenizer came with is kept; without one, and with the chat tokens,
        Qwen3's is written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)
        config = dict(self.config)
        # transformers otherwise picks a class from the model type, which may rebuild the
        # tokenizer with that class's own splitting rules.
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        if self._configured_eos() is None:
            config["eos_token"] = self.core.id_to_token(self.end_of_document_id)
        can_chat = self.core.token_to_id(IM_START) is not None and len(self.stop_ids) == 2
        if can_chat and not (self.folder / TEMPLATE_FILE).is_file():
            config.setdefault("chat_template", QWEN3_TEMPLATE)
        write_json(folder / CONFIG_FILE, config)

    def _configured_eos(self) -> str | None:
        token = self.config.get("eos_token")
        return token.get("content") if isinstance(token, dict) else token


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"not JSON: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise UserError("not a JSON object", where=str(path))
    return value

"""From the `data` section of a configuration to a dataset, through the cache.

    dataset = prepare(config.data, config.model.vocab_size, log=print)

`prepare` encodes what is not cached; one process a node calls it. The others then call
`open_prepared`, which only opens. What was left out of the data is said again on every opening.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ndtrain.config.schema import Data
from ndtrain.core.errors import UserError
from ndtrain.data import cache
from ndtrain.data.dataset import Dataset
from ndtrain.data.encode import LAYOUT, encode_documents
from ndtrain.data.jsonl import JsonlSource
from ndtrain.data.sources import MEGABYTE, Source, byte_limit
from ndtrain.data.stdlib import StdlibSource
from ndtrain.data.text_files import TextSource
from ndtrain.data.tokenizer import Tokenizer
from ndtrain.data.train_tokenizer import MAX_TRAINING_BYTES, RECIPE, SMALLEST_SIZE, train_tokenizer

Log = Callable[[str], None]


def prepare(data: Data, vocab_size: int, log: Log) -> Dataset:
    """The dataset, encoded now or found in the cache.

    vocab_size: of the model; a tokenizer that has more tokens is refused.
    Raises UserError for files that are missing or unreadable, bad records, a tokenizer that does
    not fit, and data that cannot be split.
    """
    with _file_errors():
        source = open_source(data)
        log(f"data: {data.source}: {source.describe()}")
        tokenizer = _ready_tokenizer(data, vocab_size, source, log)
        folder = _token_folder(data, source, tokenizer)
        meta = cache.find(folder)
        if meta is None:
            _check_size(tokenizer.size, data, vocab_size)
            meta = _encode(folder, source, tokenizer, log)
        else:
            log(f"data: {_amount(meta)} from {folder}")
    for remark in meta["remarks"]:
        log(f"data: {remark}")
    return _open(folder, meta, tokenizer, data, vocab_size)


def open_prepared(data: Data, vocab_size: int) -> Dataset:
    """The dataset that `prepare` has left in the cache. Raises UserError if it is not there."""
    with _file_errors():
        source = open_source(data)
        if data.tokenizer == "train":
            trained = _tokenizer_folder(data, vocab_size, source)
            _found(trained)
            tokenizer = Tokenizer.open(trained)
        else:
            tokenizer = Tokenizer.open(Path(data.tokenizer).expanduser())
        folder = _token_folder(data, source, tokenizer)
    return _open(folder, _found(folder), tokenizer, data, vocab_size)


def open_source(data: Data) -> Source:
    """The source that the configuration names. Raises UserError if it has no files."""
    limit = byte_limit(data)
    if data.source == "stdlib":
        if data.paths:
            raise UserError(
                "data.source=stdlib takes no data.paths",
                where="data.paths",
                help="set data.source=text or data.source=jsonl",
            )
        return StdlibSource(limit)
    if data.source == "text":
        return TextSource(data.paths, limit)
    return JsonlSource(data.paths, limit, data.train_on, data.max_bad_records)


def _tokenizer_folder(data: Data, vocab_size: int, source: Source) -> Path:
    identity = {"recipe": RECIPE, "vocab_size": vocab_size, "source": source.identity()}
    root = cache.cache_root(data.cache_directory)
    return root / "tokenizers" / cache.key_of(identity)


def _token_folder(data: Data, source: Source, tokenizer: Tokenizer) -> Path:
    identity: dict[str, Any] = {
        "layout": LAYOUT,
        "source": source.identity(),
        "tokenizer": tokenizer.sha256,
        "end_of_document": tokenizer.config.get("eos_token"),
    }
    root = cache.cache_root(data.cache_directory)
    return root / "tokens" / cache.key_of(identity)


def _ready_tokenizer(data: Data, vocab_size: int, source: Source, log: Log) -> Tokenizer:
    if data.tokenizer != "train":
        return Tokenizer.open(Path(data.tokenizer).expanduser())
    if vocab_size < SMALLEST_SIZE:
        raise UserError(
            f"model.vocab_size={vocab_size} is below {SMALLEST_SIZE}, the smallest byte-level"
            " tokenizer",
            where="data.tokenizer=train",
            help=f"raise model.vocab_size to at least {SMALLEST_SIZE}",
        )
    folder = _tokenizer_folder(data, vocab_size, source)
    if cache.find(folder) is None:
        start = time.perf_counter()
        meta = cache.publish(folder, lambda folder: train_tokenizer(source, vocab_size, folder))
        seconds = time.perf_counter() - start
        amount = f"{meta['sampled_bytes'] / MEGABYTE:.1f} MB"
        if source.num_bytes() > MAX_TRAINING_BYTES:
            amount = f"a sample of about {amount}"
        log(f"data: byte-level BPE of {meta['size']} tokens trained on {amount} in {seconds:.1f} s")
    return Tokenizer.open(folder)


def _encode(folder: Path, source: Source, tokenizer: Tokenizer, log: Log) -> dict[str, Any]:
    def write(temporary: Path) -> dict[str, Any]:
        remarks: list[str] = []
        meta = encode_documents(source.documents(remarks), tokenizer, source.format, temporary)
        if meta["num_documents"] == 0:
            raise UserError(
                "the data has no document",
                where="data.paths",
                help="; ".join(remarks) or "give files that are not empty",
            )
        return meta | {"remarks": remarks}

    start = time.perf_counter()
    meta = cache.publish(folder, write)
    seconds = time.perf_counter() - start
    log(f"data: {_amount(meta)} encoded in {seconds:.1f} s into {folder}")
    return meta


def _amount(meta: dict[str, Any]) -> str:
    noun = "conversations" if meta["format"] == "chat" else "documents"
    ratio = meta["num_characters"] / meta["num_tokens"]
    return (
        f"{meta['num_documents']:,} {noun}, {meta['num_tokens']:,} tokens"
        f" ({ratio:.2f} characters a token)"
    )


def _open(
    folder: Path, meta: dict[str, Any], tokenizer: Tokenizer, data: Data, vocab_size: int
) -> Dataset:
    _check_size(meta["tokenizer_size"], data, vocab_size)
    return Dataset(folder, meta, tokenizer, data.held_out_fraction)


def _check_size(size: int, data: Data, vocab_size: int) -> None:
    if size > vocab_size:
        raise UserError(
            f"the tokenizer has {size} tokens, model.vocab_size is {vocab_size}",
            where=f"data.tokenizer={data.tokenizer}",
            help=f"set model.vocab_size to at least {size}",
        )


@contextmanager
def _file_errors() -> Iterator[None]:
    """What the user can mend about files, as an error without a traceback."""
    try:
        yield
    except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{error.strerror}",
            where=str(error.filename),
            help="check data.paths, data.tokenizer and data.cache_directory",
        ) from error


def _found(folder: Path) -> dict[str, Any]:
    meta = cache.find(folder)
    if meta is None:
        raise UserError(
            "the prepared data is not in the cache",
            where=str(folder),
            help="data.cache_directory and data.paths must be the same for all ranks of a node",
        )
    return meta

"""Writes a folder that transformers loads with `AutoModelForCausalLM.from_pretrained`.

    write_folder(destination, shape, "bfloat16", checkpoint.tensors(), tokenizer_folder)

The tensors pass one at a time: memory for one shard is enough.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ndtrain.checkpoint.hugging_face import CONFIG, INDEX, SINGLE
from ndtrain.checkpoint.writer import (
    begin,
    copy_tokenizer_files,
    rename_folder,
    require_free,
    save_durably,
)
from ndtrain.core.atomic import write_json
from ndtrain.models.qwen3.hugging_face import hugging_face_names, parameter_shapes, row_counts
from ndtrain.models.qwen3.shape import Shape

GENERATION_CONFIG = "generation_config.json"
MAX_SHARD_BYTES = 2 * 10**9


def write_folder(
    destination: Path,
    shape: Shape,
    dtype: str,
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer_folder: Path | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes weights, configuration and tokenizer; the folder appears when it is complete.

    dtype: torch's name, for config.json; the tensors are written as they come.
    tensors: (our name, full tensor), each parameter once, in any order.
    Raises UserError if the destination exists and is not an empty folder.
    """
    partial = begin(destination)
    try:
        _write_shards(partial, _split(shape, tensors), max_shard_bytes)
        write_json(partial / CONFIG, shape.to_hugging_face(dtype))
        if tokenizer_folder is not None:
            copy_tokenizer_files(tokenizer_folder, partial)
        if not (partial / GENERATION_CONFIG).exists():
            write_json(partial / GENERATION_CONFIG, _generation_config(tokenizer_folder))
        require_free(destination)
        rename_folder(partial, destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _split(shape: Shape, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Our fused parameters -> Hugging Face's names and tensors."""
    expected = parameter_shapes(shape)
    for name, tensor in tensors:
        assert tuple(tensor.shape) == expected.pop(name), name
        parts = tensor.split(list(row_counts(name, shape)))
        yield from zip(hugging_face_names(name), parts, strict=True)
    assert not expected, f"not given: {sorted(expected)}"


def _write_shards(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int
) -> None:
    shards: list[list[str]] = []  # names in each
    total = 0
    for shard in _grouped(tensors, max_shard_bytes):
        save_durably(shard, folder / f"{len(shards)}.safetensors")
        shards.append(list(shard))
        total += sum(tensor.nbytes for tensor in shard.values())
    if len(shards) == 1:
        os.rename(folder / "0.safetensors", folder / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        os.rename(folder / f"{number}.safetensors", folder / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _grouped(tensors: Iterable[tuple[str, Tensor]], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Dictionaries of at most max_bytes, or of one larger tensor; each is emptied afterwards."""
    group: dict[str, Tensor] = {}
    num_bytes = 0
    for name, tensor in tensors:
        if group and num_bytes + tensor.nbytes > max_bytes:
            yield group
            group.clear()
            num_bytes = 0
        group[name] = tensor.contiguous()
        num_bytes += tensor.nbytes
    yield group


def _generation_config(tokenizer_folder: Path | None) -> dict[str, Any]:
    """Which token ends a text, if the tokenizer says so."""
    if tokenizer_folder is None or not (tokenizer_folder / "tokenizer_config.json").is_file():
        return {}
    config = json.loads((tokenizer_folder / "tokenizer_config.json").read_bytes())
    tokenizer = json.loads((tokenizer_folder / "tokenizer.json").read_bytes())
    end = config.get("eos_token")
    content = end.get("content") if isinstance(end, dict) else end
    ids = [t["id"] for t in tokenizer.get("added_tokens", []) if t["content"] == content]
    return {"eos_token_id": ids[0], "pad_token_id": ids[0]} if ids else {}

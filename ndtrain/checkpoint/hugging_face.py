"""Reads the weights of a Hugging Face folder under our names, without loading them whole.

    folder = HuggingFaceFolder(Path("Qwen3-0.6B"))
    folder.shape
    folder.read("layers.0.attention.qkv.weight", dim=0, slices=[(0, 128), (2048, 2112)])

A tensor rank reads only its part of q|k|v. Names, shapes and dtypes are checked at opening, from
the headers of the files.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ndtrain.checkpoint.assemble import SafetensorsFiles, Stored, assemble, check_headers
from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.hugging_face import hugging_face_names, parameter_shapes, row_counts
from ndtrain.models.qwen3.shape import Shape

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TIED_HEAD = "lm_head.weight"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
# Llama's files of before transformers 4.32 carry these buffers, which follow from rope_theta.
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def read_shape(folder: Path) -> Shape:
    """The shape in `config.json`. Raises UserError if it is missing or not expressible."""
    path = folder / CONFIG
    return Shape.from_hugging_face(read_json(path), str(path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError, naming the file."""
    help_text = "give a folder as Hugging Face writes it"
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no {path.name}", str(path.parent), help_text) from None
    except ValueError as error:
        raise UserError(f"not JSON: {error}", str(path), help_text) from None
    if not isinstance(value, dict):
        raise UserError("not a JSON object", str(path), help_text)
    return value


class HuggingFaceFolder:
    """The weights of a folder as transformers writes it: one safetensors file, or shards.

    Raises UserError for pickles, names that leave the folder, missing and unexpected tensors,
    other shapes than the configuration's, and dtypes that are not floating point of 16 bits or
    more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shape = read_shape(folder)
        self._shapes = parameter_shapes(self.shape)
        self._files = SafetensorsFiles()
        self._paths = _tensor_files(folder, self._files)
        self._stored = {name: self._stored_parts(name) for name in self._shapes}
        expected = {part.key for parts in self._stored.values() for part in parts}
        _check_names(folder, self._paths, expected, self.shape.tie_embeddings)
        dtypes = {
            name: check_headers(self._files, self._stored[name], size)
            for name, size in self._shapes.items()
        }
        self._dtype = dtypes["embedding.weight"]

    @property
    def has_tied_head(self) -> bool:
        """Whether the file repeats the embedding as a head, as Qwen3-0.6B's does."""
        return self.shape.tie_embeddings and TIED_HEAD in self._paths

    @property
    def dtype(self) -> str:
        """torch's name of the dtype of the embedding."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer's files lie; None if the folder has none."""
        return self.folder if (self.folder / "tokenizer.json").is_file() else None

    def read(
        self, name: str, dim: int | None = None, slices: Sequence[tuple[int, int]] | None = None
    ) -> Tensor:
        """Our parameter `name`, or its slices along dim one after the other; stored dtype."""
        return assemble(self._files, self._stored[name], self._shapes[name], dim, slices)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter whole, one at a time, in the model's order."""
        for name in self._shapes:
            yield name, self.read(name)

    def read_tied_head(self, start: int, stop: int) -> Tensor:
        """Rows of the head that the file repeats; see `has_tied_head`."""
        full_shape = self._shapes["embedding.weight"]
        stored = [Stored(self._paths[TIED_HEAD], TIED_HEAD, 0, ((0, full_shape[0]),))]
        return assemble(self._files, stored, full_shape, 0, [(start, stop)])

    def _stored_parts(self, name: str) -> list[Stored]:
        parts, row = [], 0
        counts = row_counts(name, self.shape)
        for key, num_rows in zip(hugging_face_names(name), counts, strict=True):
            path = self._paths.get(key, self.folder)
            parts.append(Stored(path, key, 0, ((row, row + num_rows),)))
            row += num_rows
        return parts


def _tensor_files(folder: Path, files: SafetensorsFiles) -> dict[str, Path]:
    """The file of every tensor, by what the files' headers say."""
    if (folder / INDEX).is_file():
        return _indexed_files(folder, files)
    if (folder / SINGLE).is_file():
        path = folder / SINGLE
        return dict.fromkeys(files.open(path).keys(), path)
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise UserError(
            f"the weights are pickles (`{pickles[0]}`), which can run any code when loaded",
            str(folder),
            "convert them where you trust them: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)",
        )
    raise UserError(
        f"no {SINGLE} and no {INDEX}", str(folder), "give a folder as Hugging Face writes it"
    )


def _indexed_files(folder: Path, files: SafetensorsFiles) -> dict[str, Path]:
    index = folder / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError("the index has no `weight_map`", str(index), "download it again")
    for name in sorted({str(value) for value in weight_map.values()}):
        if not _PLAIN_NAME.fullmatch(name):
            raise UserError(
                f"the index names the file `{name}`, which is not a plain safetensors file name",
                str(index),
                "do not use this folder: no such name is written by transformers",
            )
    paths: dict[str, Path] = {}
    for name in sorted(set(weight_map.values())):
        path = folder / name
        paths |= dict.fromkeys(files.open(path).keys(), path)
    misplaced = [key for key, name in weight_map.items() if paths.get(key) != folder / name]
    if misplaced:
        raise UserError(
            f"{_listed(misplaced)}: not in the file that the index names",
            str(index),
            "download the index and its files again",
        )
    return paths


def _check_names(folder: Path, found: Mapping[str, Path], expected: set[str], tied: bool) -> None:
    missing = sorted(expected - found.keys())
    unexpected = sorted(
        name
        for name in found.keys() - expected
        if not _DERIVED.fullmatch(name) and not (tied and name == TIED_HEAD)
    )
    problems = []
    if missing:
        problems.append(f"missing {_listed(missing)}")
    if unexpected:
        problems.append(f"unexpected {_listed(unexpected)}")
    if problems:
        raise UserError(
            f"the tensors are not those of config.json: {'; '.join(problems)}",
            str(folder),
            "take config.json and all safetensors files of one model",
        )


def _listed(names: Iterable[str], at_most: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more

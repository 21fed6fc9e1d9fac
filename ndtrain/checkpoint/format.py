"""The format of a weights folder: `manifest.json` beside safetensors files and a tokenizer.

    manifest = Manifest.load(folder)      # checked wholly, UserError names what is wrong
    manifest.files[0].pieces[0]           # Piece("layers.0.mlp.down.weight", 1, ((0, 64),))

A file holds pieces under our parameters' names. A piece is the parameter's slices [start, stop)
along `dim`, one after the other, as a tensor rank holds them; the pieces of one parameter cut the
same dim, do not overlap and leave no gap, so any layout can read what any other wrote.

`kind` says what of the parameter it is: the weight itself or, in a checkpoint that training can go
on from, an fp32 master weight or a moment of AdamW. Those are sharded by ranges of flat memory:
such a piece has one slice and holds elements [start, stop) of it, row by row, in `flat`.

The hashes find damage, that of the manifest in itself too. They prove nothing about who wrote it.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.shape import Shape

FORMAT = "ndtrain-weights"
VERSION = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"  # subfolder
TRAINING = "training.json"  # what resuming needs and is no tensor

WEIGHT = "weight"
MASTER, FIRST_MOMENT, SECOND_MOMENT = "master", "exp_avg", "exp_avg_sq"
KINDS = (WEIGHT, MASTER, FIRST_MOMENT, SECOND_MOMENT)

_FILE_NAME = re.compile(r"(tokenizer/)?[A-Za-z0-9_][A-Za-z0-9_.-]*")

Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    name: str
    dim: int
    slices: Bounds
    kind: str = WEIGHT
    flat: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """Its tensor's name in the file, unique there."""
        return self.name if self.flat is None else f"{self.kind}.{self.name}.{self.slices[0][0]}"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Piece":
        slices = tuple((int(start), int(stop)) for start, stop in value["slices"])
        flat = None
        if value["flat"] is not None:
            start, stop = value["flat"]
            flat = (int(start), int(stop))
        ranges = [*slices, *([flat] if flat else [])]
        if (
            set(value) != {"name", "dim", "slices", "kind", "flat"}
            or any(not 0 <= start < stop for start, stop in ranges)
            or value["kind"] not in KINDS
            or (flat is None) != (value["kind"] == WEIGHT)
            or (flat is not None and len(slices) != 1)
        ):
            raise ValueError(f"bad piece {value}")
        return cls(str(value["name"]), int(value["dim"]), slices, value["kind"], flat)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the folder. Those without pieces: the tokenizer's and `training.json`."""

    name: str  # relative to the folder
    num_bytes: int
    sha256: str
    pieces: tuple[Piece, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "FileEntry":
        name = value["name"]
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
            raise ValueError(f"`{name}` is not a plain file name")
        pieces = tuple(Piece.from_json(piece) for piece in value["pieces"])
        return cls(name, int(value["num_bytes"]), str(value["sha256"]), pieces)


@dataclass(frozen=True, slots=True)
class Manifest:
    shape: Shape
    dtype: str  # torch's name of the weights' dtype
    files: tuple[FileEntry, ...]
    step: int | None = None  # optimizer steps behind these weights; None: imported
    notes: dict[str, Any] = field(default_factory=dict)  # for people: versions, where it came from

    def to_json(self) -> dict[str, Any]:
        return seal({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Reads and checks `manifest.json`, and that each file is there in its size."""
        path = folder / MANIFEST
        manifest = cls._parse(path)
        for entry in manifest.files:
            _check_size(folder / entry.name, entry)
        return manifest

    @classmethod
    def _parse(cls, path: Path) -> "Manifest":
        help_text = "take another checkpoint: this one is damaged"
        try:
            text = path.read_bytes()
            value = json.loads(text)
            if not text.endswith(b"\n"):  # all that a cut can take without breaking the rest
                raise ValueError("its last byte is missing")
            if value["format"] != FORMAT:
                raise ValueError(f"its format is `{value['format']}`")
            if value["version"] != VERSION:
                help_text = f"this ndtrain reads version {VERSION}"
                raise ValueError(f"its version is {value['version']}")
            if seal(value)["seal"] != value["seal"]:
                raise ValueError("it was changed: its seal, a hash of the rest, does not fit")
            return cls(
                Shape(**value["shape"]),
                str(value["dtype"]),
                tuple(FileEntry.from_json(entry) for entry in value["files"]),
                value["step"],
                dict(value["notes"]),
            )
        except FileNotFoundError:
            raise UserError(
                f"no {MANIFEST}", str(path.parent), "give a checkpoint of ndtrain"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"the manifest is not usable: {reason}", str(path), help_text) from None


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """The JSON object with `seal`, a hash of the rest of it."""
    rest = {key: item for key, item in value.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {**rest, "seal": hashlib.sha256(text.encode()).hexdigest()}


def _check_size(path: Path, entry: FileEntry) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise UserError(
            f"`{entry.name}` is missing from the checkpoint", str(path.parent), "restore the file"
        ) from None
    if size != entry.num_bytes:
        raise UserError(
            f"`{entry.name}` has {size} bytes, the manifest says {entry.num_bytes}",
            str(path),
            "the file was cut or changed: restore it, or take another checkpoint",
        )
